"""Opens a page in a headless Chromium and asks it how its videos are doing.

The page is served by this process with a script behind it that waits for the videos and posts what
it found, so nothing depends on how fast the machine is.
"""

import http.server
import json
import pathlib
import queue
import shutil
import subprocess
import threading

CHROMIUM = pathlib.Path("/usr/bin/chromium")
WAIT_S = 240.0  # for a browser to start and decode on a busy machine; it answers when it is done
_SCRIPT = """
<script>
(() => {
  const said = [];
  const note = text => said.push(String(text));
  const plain = console.error;
  console.error = (...words) => { note(words.join(' ')); plain(...words); };
  window.addEventListener('error', e => note(e.message || (e.target && e.target.outerHTML)), true);
  window.addEventListener('unhandledrejection', e => note(e.reason));
  document.addEventListener('securitypolicyviolation', e => note(e.violatedDirective));
  const started = Date.now();
  const look = () => {
    const videos = [...document.querySelectorAll('video')].map(v => ({
      ready: v.readyState, duration: v.duration, width: v.videoWidth, height: v.videoHeight,
      played: v.currentTime > 0 || v.played.length > 0, error: v.error && v.error.message,
    }));
    const done = videos.every(v => v.error || (v.ready >= 2 && v.duration > 0 && v.played));
    if (!done && Date.now() - started < LIMIT_MS) return setTimeout(look, 100);
    const images = [...document.images].map(i => i.naturalWidth);
    fetch('/found', {method: 'POST', body: JSON.stringify({videos, images, errors: said})});
  };
  window.addEventListener('load', look);
})();
</script>
"""


def play(page: pathlib.Path, folder: pathlib.Path, wait_s: float = WAIT_S) -> dict:
    """What Chromium makes of a page.

    folder   for the browser's profile
    Returns  {"videos": [{ready, duration, width, height, played, error}], "images": [widths],
             "errors": [texts of the console]}
    Raises   RuntimeError when the browser ends or says nothing within wait_s
    """
    script = _SCRIPT.replace("LIMIT_MS", str(int(wait_s * 900)))
    # First of all, so that it hears every error; a page without <head> or <body> is still a page.
    body = page.read_text().replace("</title>", "</title>" + script, 1).encode()
    found: queue.Queue[dict] = queue.Queue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(body, found))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    command = [
        str(shutil.which("chromium") or CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
        "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={folder}",
        "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_address[1]}/",
    ]  # fmt: skip
    log = folder / "browser.log"
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        browser = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            return found.get(timeout=wait_s)
        except queue.Empty:
            raise RuntimeError(f"no answer from chromium: {log.read_text()[-800:]}") from None
        finally:
            browser.terminate()
            try:
                browser.wait(20)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
            server.shutdown()
            server.server_close()


def _handler(body: bytes, found: "queue.Queue[dict]") -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 (the name that http.server looks for)
            here = self.path == "/"
            self.send_response(200 if here else 204)  # 204: the icon that browsers ask for
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if here:
                self.wfile.write(body)

        def do_POST(self) -> None:  # noqa: N802
            length = int(self.headers["Content-Length"])
            found.put(json.loads(self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Keeps the test's output clean."""

    return Handler
