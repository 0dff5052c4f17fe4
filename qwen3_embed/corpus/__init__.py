"""Corpus jobs: files of texts to files of vectors, in bounded memory, resumable.

rows.py reads rows out of files, distinct.py finds texts that were seen before, ledger.py keeps
what is finished, job.py runs the three, output.py writes the result.
"""
