"""`qwen3-embed serve`: models over HTTP, as OpenAI's, Cohere's and TEI's clients expect them.

application.py takes requests in and turns errors into answers; exchange.py is one request, as the
routes in openai.py, cohere.py and tei.py see it; bodies.py checks what a body may contain;
registry.py holds the models by name and work.py runs them.
"""
