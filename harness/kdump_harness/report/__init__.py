"""Past drills as a page for people (HTML), as Markdown, and as JUnit XML."""
