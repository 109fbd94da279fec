"""Secrets that a user gives by environment, configuration or URL are in nothing that a run writes, shows or sends.

Each secret is a string that can be recognized. Searched are the terminal, each file of the project (unpacked), git's
objects, the files and the API of Prefect's server, and the command lines of all processes.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas_model.core.errors import AtlasError, ImageError, InputError, without_credentials
from atlas_model.core.progress import say
from crawlers.sources.csv_sources import read_sources
from flows.prefect_app.ui.log_relay import relay_to
from tests.support.canaries import (
    USER,
    Internet,
    basic,
    canaries,
    command_lines,
    files_of,
    leaks,
    serving_internet,
    told_by,
)
from tests.support.flow_projects import environment
from tests.support.git_repo import commit_all
from tests.support.object_storage import LOGIN, serving_bucket
from tests.support.paths import ROOT
from tests.support.prefect_server import PrefectServer, start_server
from tests.support.servers import HOST, Reply
from tests.support.small_shop import SmallProject, SmallShop, small_shop

SECRETS = canaries()
PLACED = (".dvc/config.local",)  # where the user has written a secret
HOOK = f"http://hooks.test/services/{SECRETS['hook']}"


def test_search_finds_a_secret_in_every_kind_of_file(tmp_path: Path, git_env: dict[str, str]) -> None:
    secret = SECRETS["web"]
    (tmp_path / "log.txt").write_text(f"to http://{USER}:{secret}@web.test")
    (tmp_path / "header.txt").write_bytes(b"Authorization: Basic " + basic(secret))
    pq.write_table(pa.table({"message": [secret] * 100}), tmp_path / "rows.parquet", compression="zstd")
    (tmp_path / "once").write_text(secret)
    commit_all(tmp_path, git_env)
    (tmp_path / "once").unlink()
    found = leaks(files_of(tmp_path), SECRETS)
    assert {place.partition(": ")[0] for place in found} >= {
        *("log.txt", "header.txt", "rows.parquet (rows)", ".git (objects)"),
    }
    assert {place.partition(": ")[2] for place in found} == {"web"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a:b@c/d", "http://***@c/d"),
        ("see https://a:p@ss@c:1/x?y=z@w and ssh://a@b", "see https://***@c:1/x?y=z@w and ssh://***@b"),
        ("postgresql+asyncpg://a:b@c\nftp://:b@c", "postgresql+asyncpg://***@c\nftp://***@c"),
        ("http://c/a@b, a@b, http://c?a@b, http://c#a@b", "http://c/a@b, a@b, http://c?a@b, http://c#a@b"),
    ],
)
def test_messages_have_no_credentials_of_urls(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert without_credentials(text) == expected
    assert str(AtlasError(text)) == str(InputError.from_faults("", [text]))[2:] == expected
    assert str(ImageError("broken", text)) == expected
    say(text)
    assert capsys.readouterr().err == expected + "\n"
    relayed: list[str] = []
    relay_to(lambda _, line: relayed.append(line))(text)
    assert SECRETS.values() and [line.replace("\N{REPLACEMENT CHARACTER}", "\n") for line in relayed] == [expected]


@pytest.mark.parametrize("rest", ["shop.test/x", "shop.test:99999/x", "[::1/x", "sh%op/x"])
@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_refused_source_does_not_show_its_password(tmp_path: Path, scheme: str, rest: str) -> None:
    file = tmp_path / "sources.csv"
    file.write_text(f"Taxonomy,shop\nBags,{scheme}://{USER}:{SECRETS['shop']}@{rest}\n")
    with pytest.raises(InputError, match="line 2") as refused:
        read_sources(file)
    assert SECRETS["shop"] not in str(refused.value)


def secret_environment(internet: Internet) -> dict[str, str]:
    """An environment with every secret."""
    return {
        **internet.environment,
        "AWS_ACCESS_KEY_ID": SECRETS["s3key"],
        "AWS_SECRET_ACCESS_KEY": SECRETS["s3secret"],
        "AWS_SESSION_TOKEN": SECRETS["s3token"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "PREFECT_API_KEY": SECRETS["prefect"],
        "ATLAS_TOKEN": SECRETS["atlas"],
        "WEBHOOK": HOOK,
        "DO_NOT_TRACK": "1",
    }


def set_param(folder: Path, section: str, **values: Any) -> None:
    """Change values of params.yaml in their lines, so that comments stay."""
    before, name, after = (folder / "params.yaml").read_text().partition(f"\n{section}:\n")
    assert name
    for key, value in values.items():
        after, count = re.subn(rf"^  {key}: .*$", f"  {key}: {value}", after, count=1, flags=re.MULTILINE)
        assert count == 1
    (folder / "params.yaml").write_text(before + name + after)


def set_remotes(folder: Path) -> str:
    """Remotes named store (S3), web (basic authentication) and shell (SSH); returns the file of their passwords."""
    with (folder / ".dvc/config").open("a") as config:
        config.write("['remote \"store\"']\n    url = s3://atlas/store\n    endpointurl = http://store.test\n")
        config.write("['remote \"web\"']\n    url = http://web.test/store\n    auth = basic\n    user = " + USER + "\n")
        config.write(f"['remote \"shell\"']\n    url = ssh://{USER}@127.0.0.1:1/store\n")
    passwords = "['remote \"web\"']\n    password = {web}\n['remote \"shell\"']\n    password = {ssh}\n"
    (folder / ".dvc/config.local").write_text(passwords.format(**SECRETS))
    return passwords.format(**SECRETS)


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def everything(folder: Path, server: PrefectServer | None, *terminal: str) -> dict[str, bytes]:
    """All that must be searched."""
    found = files_of(folder, without=PLACED) | {"terminal": "\n".join(terminal).encode()}
    if server is not None:
        found |= {f"server: {name}": content for name, content in files_of(server.log.parent).items()} | told_by(server)
    return found


PUSH = """
from flows.dvc import repo
from atlas_model.core.errors import AtlasError
from atlas_model.core.progress import say
try:
    repo.push(say)
except AtlasError as error:
    say(f"error: {error}")
    raise SystemExit(error.exit_code)
"""


@pytest.mark.slow
def test_failing_flow_webhook_proxy_and_pushes_show_no_secret(
    mini_project: Path, prefect_server: PrefectServer, git_env: dict[str, str]
) -> None:
    passwords = set_remotes(mini_project)
    set_param(mini_project, "notify", webhook=HOOK)  # not by the environment: in the file, which is the user's
    (mini_project / "fail-crawl").write_text("InputError")
    with command_lines() as commands, serving_internet(Internet(SECRETS, status=500, remote_status=403)) as internet:
        env = {**git_env, **secret_environment(internet)}
        del env["PATH"]  # `environment` has the one with this Python
        flow = run(mini_project, "flows.prefect_app.flow", **env, PREFECT_API_URL=prefect_server.url)
        assert flow.returncode == 2, flow.stdout + flow.stderr
        assert "hooks.test was not notified: HTTP status 500" in flow.stdout + flow.stderr
        assert internet.asked == ["hooks.test"], "the proxy accepted the password and passed the request on"
        (mini_project / "fail-crawl").unlink()
        pushed = [run(mini_project, "dvc", "repro", **env)]
        assert pushed[0].returncode == 0, pushed[0].stderr
        for remote, refuses in (("store", False), ("web", True)):  # the others: in the soak
            internet.refuses = refuses
            (mini_project / ".dvc/config.local").write_text(f"[core]\n    remote = {remote}\n{passwords}")
            done = subprocess.run(
                [sys.executable, "-c", PUSH],
                cwd=mini_project,
                env=environment(**env),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 1, done.stderr
            assert "dvc push failed" in done.stderr
            pushed.append(done)
    found = everything(
        mini_project, prefect_server, flow.stdout, flow.stderr, *(p.stdout + p.stderr for p in pushed), *commands
    )
    found["params.yaml"] = found["params.yaml"].replace(SECRETS["hook"].encode(), b"")  # where the user has put it
    assert leaks(found, SECRETS) == []
    assert any("flows.dvc.worker" in command for command in commands)
    assert len(found) > 50


class ShopWithPasswords(SmallShop):
    """A shop whose links and images have a name and a password in their URLs."""

    def reply(self, path: str) -> Reply:
        reply = super().reply(path)
        if isinstance(reply.body, str):
            reply.body = reply.body.replace('"/', f'"http://{USER}:{SECRETS["shop"]}@{HOST}/')
        return reply


@pytest.mark.soak
@pytest.mark.parametrize("succeeds", [True, False], ids=["everything works", "everything refuses"])
def test_whole_run_shows_no_secret(
    succeeds: bool,
    tmp_path: Path,
    copy_project: Callable[[Path], Path],
    git_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All stages, promotion, commit, push and webhook, with a Prefect server that has a password."""
    login = f"{USER}:{SECRETS['api']}"
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", login)
    for name in ("server", "shared"):
        (tmp_path / name).mkdir()
    server = replace(
        start_server(tmp_path / "server", tmp_path / "shared"),
        headers={"Authorization": f"Basic {basic(SECRETS['api']).decode()}"},
    )
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING")
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with (
        serving_bucket() as (s3, _),
        small_shop(kind=ShopWithPasswords) as shop,
        serving_internet(Internet(SECRETS, s3)) as internet,
        command_lines() as commands,
    ):
        if not succeeds:
            internet.status, internet.remote_status = 500, 403
        root = copy_project(tmp_path / "project")
        project = SmallProject(root, shop, {**git_env, **secret_environment(internet)})
        project.env |= {"PREFECT_API_URL": server.url, "PREFECT_API_AUTH_STRING": login}
        project.set({"pipeline": {"commit": True}, "notify": {"webhook": "$WEBHOOK"}})
        passwords = set_remotes(root)
        config = root / ".dvc/config"
        config.write_text(config.read_text().replace("[core]\n", "[core]\n    remote = store\n", 1))
        for command in (["git", "checkout", "-q", "-b", "main"], ["git", "add", "-A"], ["git", "commit", "-qm", "x"]):
            subprocess.run(command, cwd=root, env=project.env, check=False)
        for arguments in (
            ["flows.prefect_app.flow"],
            ["flows.cli.main", "check"],
            ["flows.cli.main", "results"],
            ["flows.cli.main", "verify"],
        ):
            done = project.run(*arguments)
            said += [" ".join(arguments), done.stdout, done.stderr]
            if "flow" in arguments[0] and arguments[0].endswith("flow"):
                assert (done.returncode == 0) is succeeds, done.stderr
                assert "hooks.test was " in done.stderr + done.stdout
                assert ("store.test" in "".join(internet.asked)) or not succeeds
        if not succeeds:
            for remote, refuses in (("web", False), ("shell", False), ("web", True)):
                internet.refuses = refuses
                (root / ".dvc/config.local").write_text(f"[core]\n    remote = {remote}\n{passwords}")
                done = subprocess.run(
                    [sys.executable, "-c", PUSH],
                    cwd=root,
                    env=project.env,
                    capture_output=True,
                    text=True,
                    timeout=300,
                    check=False,
                )
                assert done.returncode == 1
                said.append(done.stderr)
    found = everything(root, server, *said, *commands)
    assert leaks(found, SECRETS) == []
    assert len(found) > 200
    assert shop.asked, "the shop was crawled"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://{login}@127.0.0.1:port/x", marks=pytest.mark.slow),
        pytest.param("postgresql://{login}@127.0.0.1:1/x", marks=pytest.mark.soak),
    ],
)
def test_unreachable_database_does_not_show_its_password(tmp_path: Path, url: str) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    login = f"{USER}:{SECRETS['database']}"
    settings = {"PREFECT_API_DATABASE_CONNECTION_URL": url.format(login=login)}
    with command_lines() as commands:
        done = run(tmp_path, "flows.prefect_app.up", "--port", "0", PYTHONPATH=str(ROOT), **settings)
    assert done.returncode == 1, done.stderr
    assert "the Prefect server did not start" in done.stderr
    assert leaks(everything(tmp_path, None, done.stdout, done.stderr, *commands), SECRETS) == []
