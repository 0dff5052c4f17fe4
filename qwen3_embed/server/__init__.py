"""`qwen3-embed serve`: models over HTTP, as OpenAI's, Cohere's and TEI's clients expect them.

application.py takes requests in and turns errors into answers; openai.py, rerank.py and tei.py say
what each route means; bodies.py what may stand in a body; work.py runs models on threads.
"""
