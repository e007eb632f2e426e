import { connect, createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { Worker } from "node:worker_threads";
import t from "tap";
import { allAccepted, stopHandshakes, unaccepted } from "../../../src/http/connections/handshakes.ts";
import { lacking } from "../../support/requirements.ts";
import { suddenClients } from "../../support/sudden-clients.ts";

const skip = lacking("socket-filter");

t.test("unaccepted connections are those in handshake and those in a listening socket's queue", async (t) => {
  const table = [
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000012 00:00000000 00000000     0        0 18402 1 0000000000000000 100 0 0 10 0",
    "   1: 0100007F:1F91 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 18403 1 0000000000000000 100 0 0 10 0",
    "   2: 0100007F:1F90 0100007F:C001 03 00000000:00000000 01:00000062 00000000     0        0 0 1 0000000000000000",
    "  10: 0100007F:1F90 0100007F:C002 01 00000000:0000002A 00:00000000 00000000     0        0 18404 1 0000000000000000 20 4 30 10 -1",
    "  11: 0100007F:C001 0100007F:1F90 03 00000000:00000000 01:00000062 00000000     0        0 0 1 0000000000000000",
    " 100: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:C003 03 00000000:00000000 01:00000062 00000000     0        0 0 1 0000000000000000",
    "",
  ].join("\n");
  t.same(
    [0x1f90, 0x1f91, 0x1f92].map((port) => unaccepted(table, port)),
    [0x12 + 2, 1, 0],
  );
});

const hasIpv6 = Object.values(networkInterfaces()).some((all) => all?.some(({ family }) => family === "IPv6"));
for (const host of hasIpv6 ? ["127.0.0.1", "::"] : ["127.0.0.1"]) {
  t.test(`at ${host} no new handshake begins, and made connections are accepted`, { skip }, async (t) => {
    let accepted = 0;
    const server = createServer((socket) => {
      accepted++;
      socket.on("error", () => {}).end("HTTP/1.1 200 ");
      socket.resume();
    });
    server.listen(0, host);
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const [before, after] = [await suddenClients(port, 30), await suddenClients(port, 3)];
    before.come();
    t.equal(accepted, 0, "they are in the kernel's queue");
    t.ok(stopHandshakes(server));
    after.come();
    await allAccepted(port, 10_000);
    t.equal(accepted, 30);
    server.close();
    t.same(await before.ends, Array(30).fill("200"));
    t.same(await after.ends, Array(3).fill("ECONNREFUSED"));
  });
}

t.test("a server that does not listen has no handshakes", async (t) => {
  t.notOk(stopHandshakes(createServer()));
});

t.test(
  "a connection that is never accepted is waited for no longer than the limit",
  { skip: lacking("linux") },
  async (t) => {
    const held = new Int32Array(new SharedArrayBuffer(4));
    const script = `
    const { workerData, parentPort } = require("node:worker_threads");
    const server = require("node:net").createServer().listen(0, "127.0.0.1", () => {
      parentPort.postMessage(server.address().port);
      Atomics.wait(workerData, 0, 0);
      process.exit();
    });`;
    const worker = new Worker(script, { eval: true, workerData: held });
    const [port] = (await once(worker, "message")) as [number];
    const client = connect(port, "127.0.0.1").on("error", () => {});
    await once(client, "connect");
    const since = performance.now();
    await allAccepted(port, 200);
    t.ok(performance.now() - since >= 200);
    Atomics.store(held, 0, 1);
    Atomics.notify(held, 0);
    await once(worker, "exit");
    client.destroy();
  },
);
