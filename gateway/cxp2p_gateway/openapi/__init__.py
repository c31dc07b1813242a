"""The OpenAPI document of this gateway: the words of its schemas, its operations, and how they come together."""
