"""The project's own package; its name is that of many test projects."""


def hang(image: str, target: str) -> str:
    return f"{image} hangs on the {target}"
