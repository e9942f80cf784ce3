"""Tests of own tables: where they are, how they are merged, and what a bad row stops."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import platformdirs
import pytest
from kdump_harness.__main__ import main, make_parser
from kdump_harness.base import tables
from kdump_harness.base.errors import EXIT_OK, EXIT_USAGE, TableError, UsageError
from kdump_harness.base.verdict import Verdict
from kdump_harness.configuration import own_tables
from kdump_harness.configuration.own_tables import family_lineage
from kdump_harness.diagnosis import diagnose_text
from kdump_harness.diagnosis.table import all_symptoms
from kdump_harness.distro.family import find_family, load_families
from kdump_harness.drill.budgets import budget_s
from kdump_harness.drill.known_issues import load_known_issues
from kdump_harness.images.catalog import load_catalog
from kdump_harness.kdump.trigger import find_trigger, load_triggers

IMAGE = """
[[image]]
name = "lab-1"
family = "debian"
release = "1"
login = "lab"
url = "https://images.example/lab.qcow2"
checksums = "https://images.example/SHA256SUMS"
"""
BAD_IMAGE = IMAGE.replace("lab-1", "lab-2").replace('"debian"', '"plan9"')
TRIGGER = """
[[trigger]]
name = "lab-crash"
command = "lab-tool --crash"
panic = "Kernel panic - not syncing: lab"
meaning = "the crash of the lab's tool"
"""
ISSUE = """
[[issue]]
tracker = "LAB-7"
scenario = "drill"
images = ["lab-*"]
until = 2030-01-31
failed_checks = ["filter"]
"""
SYMPTOM = """
[[symptom]]
name = "lab-switch-down"
stage = "CAPTURING"
meaning = "The switch is off."
remedy = "Switch it on"
patterns = ['lab: the switch is off']
"""
BUDGET = """
[[budget]]
name = "lab"
images = ["lab-*"]
accelerators = ["kvm"]
panic_to_login_s = 90
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return the table of each place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(own_tables, "HOST_DIRECTORY", tmp_path / "etc")
    found = {
        "project": tmp_path / "kdump-harness.toml",
        "user": tmp_path / "config" / "kdump-harness" / "lab.toml",
        "host": tmp_path / "etc" / "site.toml",
    }
    for path in found.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return found


@pytest.mark.parametrize("place", ["project", "user", "host"])
def test_rows_of_each_kind_are_merged_with_those_of_the_package(places: dict[str, Path], place: str) -> None:
    shipped = len(load_catalog()), len(load_triggers()), len(load_known_issues())
    places[place].write_text(IMAGE + TRIGGER + ISSUE + SYMPTOM + BUDGET, encoding="utf-8")
    assert (len(load_catalog()), len(load_triggers()), len(load_known_issues())) == tuple(n + 1 for n in shipped)
    assert load_catalog().find("lab-1").login == "lab"
    assert find_trigger("lab-crash").command == "lab-tool --crash"
    assert load_known_issues()[0].until == datetime.date(2030, 1, 31)
    assert all_symptoms().row("lab-switch-down").remedy == "Switch it on"
    drill = {"family": "debian", "trigger": "nmi", "target": "local", "memory_mib": 1024, "vcpus": 2}
    limits = [
        budget_s(Verdict(image=image, accelerator=accelerator, **drill))  # type: ignore[arg-type]
        for image, accelerator in (("lab-1", "kvm"), ("lab-1", "tcg"), ("debian-12", "kvm"))
    ]
    assert limits == [90.0, None, None]


def test_the_project_comes_before_the_user_and_the_user_before_the_host(places: dict[str, Path]) -> None:
    for place, path in places.items():
        path.write_text(IMAGE.replace('release = "1"', f'release = "{place}"'), encoding="utf-8")
    assert load_catalog().find("lab-1").release == "project"
    places["project"].unlink()
    assert load_catalog().find("lab-1").release == "user"


def test_a_row_replaces_the_one_of_its_name_in_its_place(places: dict[str, Path]) -> None:
    before = load_catalog().names
    places["user"].write_text(IMAGE.replace("lab-1", "debian-12"), encoding="utf-8")
    assert load_catalog().names == before
    assert load_catalog().find("debian-12").login == "lab"


@pytest.mark.parametrize("home", ["", "/srv/config"])
def test_the_place_of_the_user_is_that_of_platformdirs(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", home)
    assert own_tables.directories()[0] == platformdirs.user_config_path("kdump-harness")


def test_a_project_may_have_its_rows_in_pyproject(places: dict[str, Path]) -> None:
    pyproject = places["project"].with_name("pyproject.toml")
    pyproject.write_text('[project]\nname = "x"\n' + IMAGE.replace("image", "tool.kdump-harness.image", 1))
    assert load_catalog().find("lab-1").login == "lab"
    pyproject.write_text('[project]\nname = "x"\n')
    assert own_tables.own_tables() == ()


def test_a_bad_row_stops_what_needs_it_and_nothing_else(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bad_trigger = TRIGGER.replace("lab-crash", "lab-bad").replace("command", "comand")
    places["project"].write_text(IMAGE + BAD_IMAGE + TRIGGER + bad_trigger, encoding="utf-8")
    assert load_catalog().find("lab-1").name == "lab-1"
    assert find_trigger("lab-crash").name == "lab-crash"
    message = r"kdump-harness.toml: \[\[image\]\] lab-2: family must be one of debian, redhat, suse, not 'plan9'"
    for needed in ("lab-2", "lab-*"):
        with pytest.raises(TableError, match=message):
            load_catalog().match([needed])
    with pytest.raises(TableError, match=r"kdump-harness.toml: \[\[trigger\]\] lab-bad: unknown comand"):
        find_trigger("lab-bad")
    assert main(["images", "debian-12"]) == EXIT_OK
    assert main(["images"]) == EXIT_USAGE
    listed = capsys.readouterr()
    assert "lab-1" in listed.out
    assert "[[image]] lab-2: family" in listed.err


def test_a_row_that_stands_twice_in_one_file_is_an_error(places: dict[str, Path]) -> None:
    places["project"].write_text(IMAGE + IMAGE, encoding="utf-8")
    with pytest.raises(TableError, match=r"\[\[image\]\] lab-1: name is not unique"):
        load_catalog().find("lab-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[imagee]]\n",
            r"kdump-harness.toml: unknown imagee \(known: budget, image, issue, shape, symptom, trigger, defaults",
        ),
        ("image = 1\n", r"kdump-harness.toml: image must be an array of tables, \[\[image\]\]"),
        ("[[image\n", "kdump-harness.toml: not valid TOML"),
    ],
)
def test_a_file_that_is_no_table_is_named(places: dict[str, Path], text: str, message: str) -> None:
    places["project"].write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=message):
        load_catalog()


@pytest.mark.parametrize("place", ["kdump-harness.d", "config/kdump-harness", "etc"])
def test_a_family_is_a_file(places: dict[str, Path], tmp_path: Path, place: str) -> None:
    shipped = tables.package_path("distro", "families", "redhat.toml").read_text(encoding="utf-8")
    families = tmp_path / place / "families"
    families.mkdir(parents=True)
    (families / "azurelinux.toml").write_text(shipped.replace('"redhat"', '"azurelinux"', 1), encoding="utf-8")
    (families / "broken.toml").write_text(shipped.replace("service ", "servce "), encoding="utf-8")
    places["user"].write_text(IMAGE.replace('"debian"', '"azurelinux"'), encoding="utf-8")
    assert load_catalog().find("lab-1").family == "azurelinux"
    assert find_family("azurelinux").package_suffix == "rpm"
    assert list(load_families()) == ["debian", "redhat", "suse", "azurelinux"]
    with pytest.raises(TableError, match=r"broken.toml: unknown servce"):
        find_family("broken")
    with pytest.raises(UsageError, match=r"unknown family 'plan9' \(known: debian, redhat, suse, azurelinux\)"):
        find_family("plan9")
    places["user"].write_text(SYMPTOM + 'family = ["azurelinux"]\n', encoding="utf-8")
    assert all_symptoms().row("lab-switch-down").family == ("azurelinux",)


LIKE = """
name        = "lab"
like        = "debian"
crashkernel = "320M"

[config.settings]
on_failure  = "lab-report"
"""


def test_a_family_that_is_like_another_has_only_the_differences(places: dict[str, Path], tmp_path: Path) -> None:
    families = tmp_path / "kdump-harness.d" / "families"
    families.mkdir(parents=True)
    (families / "lab.toml").write_text(LIKE, encoding="utf-8")
    places["project"].write_text(IMAGE.replace('family = "debian"', 'family = "lab"') + SYMPTOM, encoding="utf-8")
    lab, debian = find_family("lab"), find_family("debian")
    assert (lab.name, lab.crashkernel, lab.level, lab.service) == ("lab", "320M", debian.level, debian.service)
    assert lab.config.settings == {**debian.config.settings, "on_failure": "lab-report"}
    assert [release.name for release, _ in lab.releases] == [release.name for release, _ in debian.releases]
    assert load_catalog().find("lab-1").family == "lab"
    assert family_lineage("lab") == ("lab", "debian")
    assert family_lineage("debian") == ("debian",)
    for like, message in (
        ("plan9", r"lab.toml: like must be one of debian, redhat, suse, two, not 'plan9'"),
        ("lab", r"lab.toml: like must be one of debian, redhat, suse, two, not 'lab'"),
        ("two", r"lab.toml: like must name a family that has no like, unlike 'two'"),
    ):
        (families / "two.toml").write_text('name = "two"\nlike = "debian"\n', encoding="utf-8")
        (families / "lab.toml").write_text(LIKE.replace('"debian"', f'"{like}"'), encoding="utf-8")
        with pytest.raises(TableError, match=message):
            find_family("lab")


def test_the_symptoms_of_a_family_are_those_of_one_that_is_like_it(places: dict[str, Path], tmp_path: Path) -> None:
    families = tmp_path / "kdump-harness.d" / "families"
    families.mkdir(parents=True)
    (families / "lab.toml").write_text(LIKE, encoding="utf-8")
    log = "[    0.0] Linux version 6.1.0\nkdump-tools[311]: Starting kdump-tools:\n"
    log += "kdump-tools[311]: no crashkernel= parameter in the kernel cmdline ... failed!\n"
    log += "kdump-tools[311]: KDUMP_INITRD does not exist ... failed!\n"
    found, of_debian, of_suse = (
        {one.name: one.remedy for one in diagnose_text(log, family=name).symptoms} for name in ("lab", "debian", "suse")
    )
    assert "capture-initramfs-not-built" in found
    assert found == of_debian != of_suse


def test_defaults_of_options_can_be_configured(places: dict[str, Path]) -> None:
    places["host"].write_text('[defaults]\nuri = "qemu:///session"\nkeep = "never"\n', encoding="utf-8")
    places["project"].write_text(
        '[defaults]\nkeep = "always"\n'
        '[defaults.drill]\nmemory = "2G"\nlevel = 1\nas-is = true\ndimm = ["512M"]\nbudget = 90.5\n'
        '[defaults.store]\nstate = "/srv/state"\n',
        encoding="utf-8",
    )
    given = make_parser.__wrapped__("drill").parse_args(["drill", "debian-12", "--level", "31"])
    assert (given.uri, given.keep, given.memory, given.level) == ("qemu:///session", "always", 2048, 31)
    assert (given.as_is, given.dimm, given.budget) == (True, [512], 90.5)
    stored = make_parser.__wrapped__("store").parse_args(["store", "add", "vmcore", "--store", "/srv"])
    assert stored.state == Path("/srv/state")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defaults]\nmemory = 1\n", r"\[defaults\]: unknown memory \(known: accelerator"),
        ("[defaults.drill]\nmemroy = 1\n", r"\[defaults.drill\]: unknown memroy \(known: accelerator"),
        ('[defaults.drill]\nmemory = "2T"\n', r"\[defaults.drill\]: memory: invalid size: got 2T"),
        ('[defaults.drill]\nkeep = "maybe"\n', r"\[defaults.drill\]: keep: invalid choice: 'maybe'"),
        ("[defaults.drill]\nas-is = 1\n", r"\[defaults.drill\]: as-is must be true or false, not 1"),
        ("[defaults.drill]\nmemory = [1024]\n", r"\[defaults.drill\]: memory must be one value, not \[1024\]"),
    ],
)
def test_a_bad_default_is_named(places: dict[str, Path], text: str, message: str) -> None:
    places["project"].write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=message):
        make_parser.__wrapped__("drill")


def test_the_list_of_shared_options_is_of_options_that_exist() -> None:
    from help_texts import help_texts
    from kdump_harness.cli.defaults import SHARED

    everything = json.dumps(help_texts())
    assert [name for name in SHARED if f"--{name}" not in everything] == []
