import { createServer } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import t from "tap";
import { countListeners, type ListenerCounts } from "../../src/observability/event-listeners.ts";

t.test("listeners that are added for each request and stay are seen", async (t) => {
  const server = createServer((request, response) => {
    if (request.url === "/leak") request.socket.on("close", () => undefined);
    response.end();
  });
  t.teardown(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const open = new Set<Socket>();
  server.on("connection", (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
  });
  const count = (): ListenerCounts => countListeners(server, open);
  t.equal(count().connection, 0, "nobody is connected");
  const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const ask = (path: string): Promise<void> =>
    new Promise((resolve) => {
      client.once("data", () => resolve());
      client.write(`GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`);
    });
  await ask("/");
  const [before, ofServer] = [count().connection, count().server];
  for (let i = 0; i < 3; i++) await ask("/");
  t.equal(count().connection, before);
  for (let i = 0; i < 3; i++) await ask("/leak");
  t.equal(count().connection, before + 3);
  server.on("request", () => undefined);
  t.equal(count().server, ofServer + 1);
  client.destroy();
  while (count().connection > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});
