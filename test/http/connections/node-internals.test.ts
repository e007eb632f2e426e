/**
 * What src/http takes for granted of Node and Node does not promise, each tried on Node's own server alone: when an upgrade changes one
 * of them, this says which.
 */
import { once } from "node:events";
import { createServer, request, type RequestListener, type Server } from "node:http";
import { spawn } from "node:child_process";
import { connect, createServer as createTcpServer, Socket, type AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import t, { type Test } from "tap";

async function listen(t: Test, listener: RequestListener): Promise<{ server: Server; port: number }> {
  const server = createServer(listener).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { server, port: (server.address() as AddressInfo).port };
}

t.test(
  "Node calls destroySoon after a connection's last response, also an overridden one (half-close.ts)",
  async (t) => {
    let called = 0;
    const { port } = await listen(t, (incoming, response) => {
      const { socket } = incoming;
      const destroySoon = socket.destroySoon.bind(socket);
      t.ok("destroySoon" in socket, "a socket has it");
      socket.destroySoon = () => {
        called++;
        t.ok(response.writableFinished, "what was answered has been handed over");
        destroySoon();
      };
      response.setHeader("connection", "close");
      response.end("refused");
    });
    const client = connect(port, "127.0.0.1");
    client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nthe beginning of it");
    t.match(await text(client), /\r\n\r\nrefused$/);
    t.equal(called, 1);
  },
);

t.test("a chunk framed by hand keeps its order among Node's own (sse.ts)", async (t) => {
  const { port } = await listen(t, async (_, response) => {
    response.writeHead(200, { "content-type": "text/plain" });
    t.equal(response.chunkedEncoding, true, "known once the header is written");
    response.write("one ");
    const { socket } = response;
    t.ok(socket instanceof Socket, "the response whose turn it is has its socket");
    // Not at once: from Node 26 on it would overtake the header.
    await Promise.resolve();
    socket!.write("4\r\ntwo \r\n");
    socket!.write("7\r\nthr\u00e9e \r\n", "utf8");
    response.end();
  });
  const outgoing = request({ host: "127.0.0.1", port, agent: false }).end();
  const [response] = await once(outgoing, "response");
  t.equal(await text(response), "one two thr\u00e9e ");
  t.equal(response.complete, true, "the last chunk is Node's");
});

t.test("a response behind another has no socket until it is its turn (sse.ts)", async (t) => {
  const seen: boolean[] = [];
  const { port } = await listen(t, (incoming, response) => {
    seen.push(response.socket !== null);
    if (incoming.url === "/second") return void response.end("second");
    setTimeout(() => response.end("first"), 50);
  });
  const client = connect(port, "127.0.0.1");
  client.write("GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  t.match(await text(client), /first[^]*second$/);
  t.same(seen, [true, false]);
});

t.test(
  "a listening server's file descriptor is at _handle.fd (handshakes.ts)",
  { skip: process.platform !== "linux" && "Linux only" },
  async (t) => {
    const { server } = await listen(t, () => {});
    const { _handle: handle } = server as unknown as { _handle: { fd: number } };
    t.ok(Number.isInteger(handle.fd) && handle.fd > 2, `${handle.fd}`);
  },
);

t.test("a server closes whose connections went to a process that has ended (workers/link.ts)", async (t) => {
  const child = spawn(process.execPath, ["-e", "process.on('message', (_, socket) => socket.end('theirs'))"], {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const server = createTcpServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const [accepted] = (await once(server, "connection")) as [Socket & { server: unknown }];
  accepted.server = null;
  await new Promise((sent) => child.send("take", accepted, { keepOpen: false }, sent));
  accepted.destroy();
  t.equal(await text(client), "theirs", "not closed here");
  child.kill("SIGKILL");
  await once(child, "exit");
  server.close();
  await once(server, "close");
});
