/** Clients that do not end what they begin: others are answered all the same, and nothing stays behind. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { exchange, openSocket, requestBytes, type RawRequest } from "./support/raw-http.ts";
import { formBytes, FORM_TYPE } from "./support/requests.ts";
import { runsOf } from "./support/runs.ts";
import { ADMIN_KEY, startFuzzServer } from "./support/server.ts";

const server = await startFuzzServer(t);
const witness = await server.createUser("witness");
await server.put(witness, "known", "intent");
const expected = await server.ask(witness, "known");

const files = ["adapter_config.json", "adapter_model.safetensors"].map((file): [string, Uint8Array] => [file, readFileSync(join("prefixes/intent", file))]);
const upload = (name: string): RawRequest => ({ method: "PUT", target: `/prefixes/${name}`, headers: [["authorization", `Bearer ${ADMIN_KEY}`], ["content-type", FORM_TYPE]], body: formBytes(files) });
const registered = async (): Promise<string[]> => ((await server.json(ADMIN_KEY, "GET", "/prefixes?limit=1000")).body["prefixes"] as { id: string }[]).map(({ id }) => id).sort();

t.test("a thousand connections with half a request each stop nobody", async (t) => {
  const body = Buffer.from(JSON.stringify({ prompt: "a", max_new_tokens: 1 }));
  const generate = requestBytes({ method: "POST", target: "/generate", headers: [["authorization", `Bearer ${ADMIN_KEY}`], ["content-type", "application/json"]], body });
  // Nothing at all, half the head, the head alone, and all but the last byte.
  const cuts = [0, 20, generate.length - body.length, generate.length - 1];
  const sockets = await Promise.all(
    Array.from({ length: 1000 }, async (_, i) => {
      const socket = await openSocket(server.port);
      socket.write(generate.subarray(0, cuts[i % cuts.length]));
      return socket;
    }),
  );
  t.same(await server.ask(witness, "known"), expected);
  t.equal(await server.metric("prefixd_running_sequences"), 0);
  t.ok(sockets.every((socket) => !socket.destroyed), "all are still open");
  for (const socket of sockets) socket.destroy();
  t.same(await server.ask(witness, "known"), expected);
});

t.test("uploads that stop in the middle hold up those that wait for their turn until they are gone, and no longer", async (t) => {
  const whole = requestBytes(upload("stalled"));
  const stalled = await Promise.all(Array.from({ length: 12 }, () => openSocket(server.port)));
  for (const [i, socket] of stalled.entries()) socket.write(whole.subarray(0, whole.length - 1 - i * 5000));
  t.same(await server.ask(witness, "known"), expected, "what is no upload goes on");
  for (const socket of stalled) socket.destroy();
  t.equal((await exchange(server.port, requestBytes(upload("after"))))?.status, 201);
  t.notOk((await registered()).includes("stalled"), "half an upload is none");
});

t.test("an upload cut off at any byte changes nothing", async (t) => {
  const before = await registered();
  const request = upload("cut");
  const bytes = request.body!;
  const [start, end] = [bytes.length - 600, bytes.length];
  const lastPart = bytes.length - "\r\n------fuzz--\r\n".length;
  const places = Array.from({ length: runsOf(300) }, (_, i) => (i % 3 === 0 ? i : i % 3 === 1 ? start + ((i * 7) % (end - start)) : (i * 7919) % bytes.length));
  const answers = new Set<string>();
  for (let at = 0; at < places.length; at += 16) {
    await Promise.all(
      places.slice(at, at + 16).map(async (place) => {
        // As a whole request with a part of the body, and as one that ends before its Content-Length does.
        const short = await exchange(server.port, requestBytes({ ...request, body: bytes.subarray(0, place) }));
        const { code } = JSON.parse(short?.body.toString() || "{}") as { code?: string };
        answers.add(`${code ?? short?.status} ${place < lastPart ? "before" : "behind"} the end of the files`);
        const broken = await exchange(server.port, requestBytes(request).subarray(0, requestBytes(request).length - end + place), { hangUp: true });
        if (broken !== null && broken.status >= 500) t.fail(`${broken.status} at byte ${place}`);
      }),
    );
  }
  t.same([...answers].filter((answer) => !/^(invalid_request|upload_incomplete) |behind/.test(answer)), []);
  await exchange(server.port, requestBytes({ ...request, method: "DELETE", body: null, headers: request.headers.slice(0, 1) }));
  t.same(await registered(), before);
});

t.test("streams whose readers leave at any event leave nothing behind", async (t) => {
  const body = Buffer.from(JSON.stringify({ prompt: "i want to book a flight", max_new_tokens: 200, ignore_eos: true, stream: true }));
  const bytes = requestBytes({ method: "POST", target: "/generate", headers: [["authorization", `Bearer ${ADMIN_KEY}`], ["content-type", "application/json"]], body });
  await Promise.all(
    Array.from({ length: 40 }, async (_, i) => {
      const socket = await openSocket(server.port);
      let events = 0;
      const left = new Promise<void>((resolve) => socket.on("data", () => void (events++ >= i % 8 && (socket.destroy(), resolve()))));
      socket.write(bytes);
      await Promise.race([left, sleep(30_000, undefined, { ref: false })]);
      socket.destroy();
    }),
  );
  await server.idle();
  t.same(await server.ask(witness, "known"), expected);
  t.same(server.errors(), [], "no errors in the log");
});
