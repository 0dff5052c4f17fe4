"""Corpus runs: files of texts to files of vectors, in bounded memory, resumable.

records.py reads records from files, distinct.py finds texts that were seen before, ledger.py keeps
finished work on disk, run.py drives them, output.py writes the result.
"""
