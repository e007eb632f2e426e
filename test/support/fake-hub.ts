/** A Hugging Face hub on loopback. */
import { createHash } from "node:crypto";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import type { Test } from "tap";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

export interface Hub {
  readonly url: string;
  readonly downloads: string[];
  readonly authorizations: Set<string | undefined>;
  close(): Promise<void>;
}

/** The part of the Hugging Face hub's HTTP API that a download uses. `damage` changes what a file's bytes are on the wire. */
export async function fakeHub(
  t: Test,
  files: Readonly<Record<string, Buffer>>,
  damage: (name: string, content: Buffer) => Buffer = (_, content) => content,
): Promise<Hub> {
  const downloads: string[] = [];
  const tree = `/api/models/org/tiny/tree/${COMMIT}/`;
  const authorizations = new Set<string | undefined>();
  const listener: RequestListener = (request, response) => {
    authorizations.add(request.headers.authorization);
    const path = decodeURIComponent((request.url ?? "").split("?")[0] ?? "");
    const json = (status: number, body: unknown): void => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    };
    const file = path.replace(`/org/tiny/resolve/${COMMIT}/`, "");
    const content = files[file];
    if (/^\/api\/models\/org\/tiny\/revision\/(main|v1)$/.test(path))
      json(200, { _id: "1", id: "org/tiny", sha: COMMIT });
    else if (`${path}/`.startsWith(tree)) {
      // A folder's own files, as the hub lists it.
      const folder = path.slice(tree.length).replace(/(?<=.)$/, "/");
      const items = Object.entries(files).filter(
        ([name]) => name.startsWith(folder) && !name.slice(folder.length).includes("/"),
      );
      if (items.length === 0) return json(404, { error: "Not found" });
      json(200, [
        { type: "directory", path: "onnx", size: 0, oid: "d" },
        ...items.map(([name, bytes]) => ({
          type: "file",
          path: name,
          size: bytes.length,
          oid: "o",
          ...(bytes.length > 100_000
            ? { lfs: { oid: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, pointerSize: 134 } }
            : {}),
        })),
      ]);
    } else if (content !== undefined) {
      const etag = { ETag: `"${file}"` };
      if (request.headers.range === "bytes=0-0") {
        response
          .writeHead(206, { ...etag, "content-range": `bytes 0-0/${content.length}` })
          .end(content.subarray(0, 1));
        return;
      }
      downloads.push(file);
      const sent = damage(file, content);
      response.writeHead(200, { ...etag, "content-length": sent.length }).end(sent);
    } else json(404, { error: "Repository not found" });
  };
  const server = createServer(listener).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  t.teardown(close);
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, downloads, authorizations, close };
}
