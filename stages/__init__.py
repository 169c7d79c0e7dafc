"""The stages of dvc.yaml: python -m stages.NAME."""
