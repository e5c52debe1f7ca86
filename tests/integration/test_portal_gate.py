"""Who may come in: nobody without a login, no form from elsewhere, no endless guessing."""

import re
from collections.abc import Iterator

import httpx
import pytest

from portal.accounts import Accounts
from portal.app import API_ROUTES
from portal.gate import COOKIE
from portal.pages import routes as page_routes
from portal.server import make_parts
from tests.portal_house import Browser, House, csrf_in

#: What anybody may ask for.
PUBLIC = {"/api/v1/health", "/api/v1/login", "/api/v1/nodes/join", "/login"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as house:
        house.agent("n1")
        yield house


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house in which no login was counted yet."""
    with House(tmp_path_factory.mktemp("house"), decides=False, views=False) as house:
        yield house


def every_route(house: House) -> list[tuple[str, object]]:
    parts = make_parts(house.bus, house.documents, house.series, house.live, credentials_for=str)
    found = [(path, resource(parts)) for path, resource in API_ROUTES]
    found += [*page_routes(parts), ("/metrics", None), ("/api/v1/openapi.json", None)]
    parts.offload.close()
    return found


def test_every_route_but_a_few_needs_a_login(house: House) -> None:
    with httpx.Client(base_url=house.url) as nobody:
        for path, resource in every_route(house):
            if path in PUBLIC:
                continue
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                if resource is not None and not hasattr(resource, f"on_{method.lower()}"):
                    continue
                answer = nobody.request(method, re.sub(r"{\w+}", "x", path))
                to_login = answer.status_code == 303 and answer.headers["location"].startswith("/login?next=")
                assert answer.status_code in (401, 405) or to_login, f"{method} {path}: {answer.status_code}"


def test_the_public_routes_are_those_that_are_meant_to_be(house: House) -> None:
    assert {path for path, resource in every_route(house) if getattr(resource, "public", False)} == PUBLIC


@pytest.mark.parametrize("token", ["nonsense", "fb_" + "a" * 43])
def test_a_wrong_token_is_refused_with_what_would_be_right(house: House, token: str) -> None:
    answer = httpx.get(f"{house.url}/api/v1/nodes", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "fleetbus login" in answer.json()["detail"]


def test_health_tells_strangers_its_status_and_nothing_else(house: House) -> None:
    house.wait(lambda: house.api.get("/health").json()["status"] == "ok", "all to be well")
    answer = httpx.get(f"{house.url}/api/v1/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


def test_a_browser_logs_in_and_out(house: House) -> None:
    with house.browser() as browser:
        page = browser.get("/nodes")
        assert page.status_code == 200
        assert browser.send("/logout", {}, form_at="/nodes").headers["location"] == "/login"
        assert browser.get("/nodes").headers["location"] == "/login?next=%2Fnodes"


def test_a_login_goes_on_to_the_page_that_was_asked_for_and_nowhere_else(house: House) -> None:
    for wanted, reached in [
        ("/jobs?state=failed", "/jobs?state=failed"),
        ("https://evil.example/", "/"),
        ("//evil", "/"),
    ]:
        with Browser(house.url) as browser:
            csrf = csrf_in(browser.get("/login").text)
            form = {"csrf": csrf, "account": "admin", "password": house.password, "next": wanted}
            assert browser.http.post("/login", data=form).headers["location"] == reached


def test_the_session_cookie_is_for_this_portal_alone(house: House) -> None:
    with Browser(house.url) as browser:
        cookie = browser.log_in("admin", house.password).headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Secure" not in cookie
        csrf = csrf_in(browser.get("/login").text)
    with httpx.Client(base_url=house.url, headers={"X-Forwarded-Proto": "https"}) as behind_tls:
        csrf = csrf_in(behind_tls.get("/login").text)
        guest = behind_tls.cookies.jar
        form = {"csrf": csrf, "account": "admin", "password": house.password}
        header = "; ".join(f"{one.name}={one.value}" for one in guest)
        answer = behind_tls.post("/login", data=form, headers={"Cookie": header})
        assert "Secure" in answer.headers["set-cookie"]


def test_a_form_without_the_token_of_its_session_changes_nothing(house: House) -> None:
    with house.browser() as browser:
        for form in ({}, {"csrf": ""}, {"csrf": "0" * 64}):
            answer = browser.http.post("/nodes/n1", data={**form, "do": "maintenance", "on": "1"})
            assert answer.status_code == 403
        api = browser.http.post("/api/v1/events", json={"type": "event.billing.paid", "data": {}})
        assert api.status_code == 403
    assert house.api.get("/nodes/n1").json()["maintenance"] is False


def test_the_api_takes_a_session_with_its_token_in_a_header(house: House) -> None:
    with house.browser() as browser:
        csrf = csrf_in(browser.get("/account").text)
        body = {"type": "event.billing.paid", "data": {}}
        answer = browser.http.post("/api/v1/events", json=body, headers={"X-CSRF-Token": csrf})
        assert answer.status_code == 201


def test_guessing_passwords_is_limited(fresh: House) -> None:
    with Browser(fresh.url) as browser:
        statuses = [browser.log_in("admin", f"guess {n}").status_code for n in range(12)]
        assert statuses[:10] == [401] * 10
        assert statuses[10:] == [429] * 2
        assert browser.log_in("admin", fresh.password).status_code == 429
    with fresh.client() as nobody:
        answer = nobody.post("/login", json={"account": "admin", "password": "guess"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_a_right_password_forgets_the_wrong_ones(fresh: House) -> None:
    for _ in range(3):
        with Browser(fresh.url) as browser:
            for n in range(8):
                browser.log_in("admin", f"guess {n}")
            assert browser.log_in("admin", fresh.password).status_code == 303


def test_an_unknown_account_is_refused_in_the_same_words(house: House) -> None:
    with house.client() as stranger:
        wrong = stranger.post("/login", json={"account": "admin", "password": "wrong"})
        nobody = stranger.post("/login", json={"account": "nobody", "password": "wrong"})
    assert (wrong.status_code, wrong.json()) == (nobody.status_code, nobody.json())


def test_a_program_gets_a_token_by_the_password(house: House) -> None:
    with house.client() as stranger:
        answer = stranger.post("/login", json={"account": "admin", "password": house.password, "token_name": "cli"})
    assert answer.status_code == 201
    with house.client(answer.json()["token"]) as client:
        assert client.get("/nodes").status_code == 200
        names = [token["name"] for token in client.get("/tokens").json()["items"]]
        assert "cli" in names


def test_a_revoked_token_opens_nothing(house: House) -> None:
    token = house.api.post("/tokens", json={"name": "short"}).json()["token"]
    id = next(one["id"] for one in house.api.get("/tokens").json()["items"] if one["name"] == "short")
    assert house.api.delete(f"/tokens/{id}").status_code == 204
    with house.client(token) as client:
        assert client.get("/nodes").status_code == 401
    assert house.api.delete(f"/tokens/{id}").status_code == 404


def test_a_service_speaks_as_itself_and_makes_no_tokens(house: House) -> None:
    answer = house.api.post("/tokens", json={"name": "billing", "service": "billing"})
    assert answer.json()["actor"] == "service:billing"
    with house.client(answer.json()["token"]) as billing:
        told = billing.post("/events", json={"type": "event.billing.invoice.paid", "data": {"eur": 3}})
        assert told.status_code == 201
        event = house.wait(
            lambda: house.api.get(f"/events/{told.json()['id']}").json().get("event"), "the event in the index"
        )
        assert event["actor"] == "service:billing"
        other = billing.post("/events", json={"type": "event.shop.order.made", "data": {}})
        assert other.status_code == 403
        assert billing.post("/tokens", json={"name": "more"}).status_code == 403


def test_no_secret_is_kept(house: House) -> None:
    secret = house.api.post("/tokens", json={"name": "secret"}).json()["token"]
    with house.browser() as browser:
        session = browser.http.cookies[COOKIE]
    space = house.documents.namespace("accounts")
    kept = repr([list(space.iterate(name)) for name in space.collections()])
    for value in (secret, session, house.password, house.token):
        assert value not in kept
    assert "$argon2id$" in kept


def test_the_first_start_makes_one_account_once(fresh: House) -> None:
    assert len(fresh.password) >= 16
    assert Accounts(fresh.documents).first_start() is None


def test_a_new_password_ends_all_other_sessions(fresh: House) -> None:
    with Browser(fresh.url) as here, Browser(fresh.url) as there:
        for browser in (here, there):
            assert browser.log_in("admin", fresh.password).status_code == 303
        form = {"do": "password", "old": fresh.password, "new": "another password", "again": "another password"}
        assert "password is changed" in here.send("/account", form).text
        assert here.get("/account").status_code == 200
        assert there.get("/account").status_code == 303
        assert there.log_in("admin", fresh.password).status_code == 401
        assert there.log_in("admin", "another password").status_code == 303


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"old": "wrong", "new": "another password", "again": "another password"}, "another one"),
        ({"new": "another password", "again": "a different one"}, "differ"),
        ({"new": "short", "again": "short"}, "10 to 500"),
    ],
)
def test_a_password_that_cannot_be_is_refused_in_words(house: House, form: dict[str, str], said: str) -> None:
    with house.browser() as browser:
        answer = browser.send("/account", {"do": "password", "old": house.password, **form})
        assert answer.status_code == 422
        assert said in answer.text


def test_every_answer_carries_the_headers_that_guard_browsers(house: House) -> None:
    with house.browser() as browser:
        for path in ("/", "/login", "/api/v1/nodes", "/nope", "/static/portal.css"):
            headers = browser.get(path).headers
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"


def test_answers_for_one_person_are_not_kept_by_caches(house: House) -> None:
    with house.browser() as browser:
        assert browser.get("/nodes").headers["cache-control"] == "no-store"


def test_static_files_stay_in_their_folder(house: House) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert httpx.get(house.url + path).status_code in (404, 303)


def test_metrics_need_a_token_and_name_units(house: House) -> None:
    def measured() -> str:
        answer = httpx.get(f"{house.url}/metrics", headers={"Authorization": f"Bearer {house.token}"})
        assert answer.status_code == 200
        return answer.text

    house.wait(lambda: "fleetbus_views_lag_records 0.0" in measured(), "no lag")
    house.wait(lambda: 'fleetbus_nodes{state="online"} 1.0' in measured(), "the node")
    assert "fleetbus_portal_requests_total" in measured()
