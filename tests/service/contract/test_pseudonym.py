import hashlib
import hmac
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import ConfigError
from service.contract.pseudonym import Key, load_key

KEY = Key(bytes(range(32)), "test")


def test_it_is_hmac_sha256() -> None:
    wanted = hmac.new(bytes(range(32)), b"patient-7", hashlib.sha256).hexdigest()[:32]
    assert KEY.pseudonym("patient-7") == wanted


def test_no_patient_stays_no_patient() -> None:
    assert KEY.pseudonym("") == ""
    assert KEY.pseudonym("  ") == ""


def test_spelling_of_one_id_does_not_make_two_patients() -> None:
    assert KEY.pseudonym("Mu\u0308ller 1\n") == KEY.pseudonym("M\u00fcller 1")
    assert KEY.pseudonym("a b") != KEY.pseudonym("ab")


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_another_key_is_another_pseudonym(patient: str) -> None:
    other = Key(bytes(32), "other")
    assert KEY.pseudonym(patient) != other.pseudonym(patient)
    assert len(KEY.pseudonym(patient)) == 32


def test_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym.key"
    key = load_key(path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(key.secret) == 32
    assert load_key(path, create=True) == key == load_key(path, create=False)
    assert [entry.name for entry in path.parent.iterdir()] == ["pseudonym.key"]


def test_the_secret_is_in_no_repr(tmp_path: Path) -> None:
    key = load_key(tmp_path / "key", create=True)
    assert key.secret.hex() not in repr(key)
    assert key.key_id in repr(key)
    assert key.key_id not in key.secret.hex()


def _load(path: Path) -> str:
    return load_key(path, create=True).secret.hex()


def test_workers_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        secrets = set(pool.map(_load, [tmp_path / "keys" / "key"] * 16))
    assert len(secrets) == 1


def test_missing_without_create(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no pseudonym key at .* openssl rand"):
        load_key(tmp_path / "key", create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "µ" * 64])
def test_malformed(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text, encoding="utf-8")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError, match="pseudonym key"):
        load_key(tmp_path / "key", create=True)


def test_open_to_everyone_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path / "key", create=True)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(tmp_path / "key", create=False)
