"""The screens: Django. Never loads torch, transformers, trl or vllm, even indirectly."""
