"""Serving an exported agent over HTTP (`bitrl serve`). Needs Starlette and uvicorn, and nothing that training needs."""
