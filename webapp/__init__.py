"""The site, built with Django. Never loads torch, transformers, trl or vllm, even indirectly."""
