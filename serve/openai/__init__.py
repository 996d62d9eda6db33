"""The endpoint as OpenAI's clients see it: requests, answers, and what each route does."""
