"""The server's page in a browser: it works, is accessible, and fits screens. Needs Chromium, and axe-core."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import AXE, document_in_browser, needs_browser, said_in_browser
from served import Served

pytestmark = needs_browser

MEASURE = """
<script>
const until = async test => { while (!test()) await new Promise(done => setTimeout(done, 10)); };
const submit = text => { $("observation").value = text; $("try").requestSubmit(); };
(async () => {
  await until(() => document.querySelector("#watched td"));
  const first = $("score").textContent;
  $("step").click();
  await until(() => $("score").textContent !== first);
  const stepped = $("score").textContent, alt = $("picture").alt, drawn = $("picture").naturalWidth;
  submit("[0, 0]");
  await until(() => $("try-failed").textContent);
  const wrong = $("try-failed").textContent;
  submit("{");
  await until(() => $("try-failed").textContent && $("try-failed").textContent !== wrong);
  submit("[0, 0, 0, 0]");
  await until(() => document.querySelector("#tried td"));
  const found = await axe.run(document, {rules: {"region": {enabled: true}}});
  const facts = {
    violations: found.violations.map(v => v.id + ": " + v.nodes.map(n => n.target).join(" ")),
    passes: found.passes.length, first, stepped, alt, drawn, wrong,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    shares: [...document.querySelectorAll("#tried td:last-child")].map(each => parseFloat(each.textContent)),
    small: [...document.querySelectorAll("button")].filter(each => each.offsetHeight && each.offsetHeight < 44).length,
    background: getComputedStyle(document.body).backgroundColor,
  };
  document.body.innerHTML = "";
  document.body.setAttribute("data-facts", JSON.stringify(facts));
})();
</script>
"""


@pytest.fixture(scope="module")
def examined(served: Served) -> Iterator[str]:
    """Where the page is found with axe-core and MEASURE in it; all else is the server's."""

    class Forwarding(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            status, headers, body = served.ask_whole(self.command, self.path, self.rfile.read(length) or None)
            if self.path == "/":
                script = f"<script>{AXE.read_text(encoding='utf-8')}</script>{MEASURE}</body>"
                body = body.replace(b"</body>", script.encode())
            self.send_response(status)
            self.send_header("Content-Type", headers["Content-Type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forwarding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_page_shows_the_agent_act(served: Served, tmp_path: Path) -> None:
    """As a visitor gets it, with its Content-Security-Policy."""
    document = document_in_browser(f"http://127.0.0.1:{served.port}/", tmp_path, 1280)
    assert '<h1 id="title">CartPole-v1</h1>' in document
    assert re.search(r'<img id="picture" alt="CartPole-v1, step 0, return 0" src="data:image/png;base64,', document)
    assert re.search(r">push (left|right)</th>", document)
    assert re.search(r'role="alert"[^>]*>[^<]', document) is None


@pytest.mark.parametrize(
    ("width", "flags", "background"),
    [
        (1280, ("--blink-settings=preferredColorScheme=0",), "rgb(22, 24, 27)"),
        (500, (), "rgb(255, 255, 255)"),
    ],
    ids=["dark", "phone"],
)
def test_the_page_is_accessible_and_fits(
    examined: str, tmp_path: Path, width: int, flags: tuple[str, ...], background: str
) -> None:
    facts = said_in_browser(examined, tmp_path, width, *flags)
    assert facts["violations"] == []
    assert int(str(facts["passes"])) > 15
    assert (facts["wide"], facts["small"], facts["background"]) == (False, 0, background)
    assert (facts["first"], facts["stepped"], facts["drawn"]) == ("Step 0, return 0", "Step 1, return 1", 600)
    assert facts["alt"] == "CartPole-v1, step 1, return 1"
    assert facts["wrong"] == "observation: expected 4 numbers, got [0, 0]"
    assert sum(facts["shares"]) == pytest.approx(100, abs=0.2)


def test_nothing_is_asked_of_another_server(served: Served) -> None:
    _, headers, page = served.ask_whole("GET", "/")
    assert b"http" not in page.replace(b"http-equiv", b"")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert len(page) < 16_000
