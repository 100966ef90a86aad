"""Model folders: validation, and downloads from the Hugging Face Hub."""
