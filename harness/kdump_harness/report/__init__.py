"""Reports of past drills as HTML, Markdown and JUnit XML."""
