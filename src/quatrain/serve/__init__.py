"""The server: models that people can ask, by OpenAI's routes and from one page."""
