"""`qwen3-embed serve`: models over HTTP, for the clients of OpenAI, Cohere, TEI, vLLM and Ollama.

application.py leads a request through its steps; routes.py says which handler answers it, in
openai.py, cohere.py, tei.py, vllm.py or ollama.py, which see it as an exchange (exchange.py);
schemas.py has the fields of its body; registry.py holds the models by name and work.py runs them.
"""
