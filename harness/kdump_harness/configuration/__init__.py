"""Configuration of the user: tables of the project, of the user and of the host, merged with those of the package."""
