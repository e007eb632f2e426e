import { spawn } from "node:child_process";
import { connect } from "node:net";
const child = spawn("npx", ["tsx", "test/_tmp/server.ts"], { stdio: ["ignore", "pipe", "inherit"] });
let out = ""; child.stdout.on("data", (d) => { out += d; });
while (!/PORT (\d+)/.test(out)) await new Promise((r) => setTimeout(r, 50));
const port = Number(/PORT (\d+)/.exec(out)![1]);
const R = Math.random;
const bodies = ['{"prompt":"abc","max_new_tokens":30,"stream":true,"logprobs":20}', '{"prompt":"abc","max_new_tokens":30}', '{"prompt":"abc","max_new_tokens":9,"stream":true}', '{"x":'];
let n = 0; const end = Date.now() + 8000;
async function one() {
  while (Date.now() < end) {
    n++;
    await new Promise<void>((resolve) => {
      const s = connect(port, "127.0.0.1");
      s.on("error", () => 0).on("close", () => resolve()); if (R() < 0.5) s.on("data", () => 0);
      const b = bodies[Math.floor(R() * 4)]!;
      const k = R();
      let text = k < 0.7 ? `POST ${R() < 0.5 ? "/generate" : "/prefixes/p/generate"} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${b.length}\r\n\r\n${b}`
        : k < 0.85 ? `PUT /prefixes/z HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n\r\n--b\r\nContent-Disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n{}\r\n--b` : k < 0.95 ? "GET /prefixes HTTP/1.1\r\nHost: localhost\r\n\r\n" : "\x00\x01\r\n\r\n";
      if (R() < 0.2) text = text.slice(0, Math.floor(R() * text.length)); if (R() < 0.2) text += text;
      s.write(text);
      setTimeout(() => (R() < 0.4 ? s.resetAndDestroy() : R() < 0.6 ? s.destroy() : s.end()), R() * 60);
      setTimeout(() => s.destroy(), 150);
    });
  }
}
await Promise.all(Array.from({ length: 40 }, one));
await new Promise((r) => setTimeout(r, 1500));
console.log("requests", n, (await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).split("\n").filter((l) => /^prefixd_(requests_total|running|http_requests_total)/.test(l)).join("\n"));
const pid = child.pid!; spawn("pkill", ["-TERM", "-P", String(pid)]); await new Promise((r) => setTimeout(r, 800)); child.kill("SIGKILL");
console.log(out.slice(0, 3000));
