/** A proxy before a real server that changes one thing in one stream of events. */
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";

/** Which thing. Tokens and log probabilities only of streams that ask for log probabilities: those can be compared. */
export type Lie = "token" | "logprob" | "digest" | "base";

interface Event {
  choices: { token_ids?: number[]; logprobs?: { token_logprobs: number[] } }[];
  prefix?: { id: string; digest: string } | null;
}

export async function startLyingProxy(
  target: string,
  lie: Lie,
): Promise<{ url: string; lies: () => number; close: () => void }> {
  const digests = new Set<string>();
  let lies = 0;

  /** The event as it is passed on. */
  const change = (event: Event): Event => {
    const choice = event.choices[0];
    if (event.prefix) digests.add(event.prefix.digest);
    if (lies > 0) return event;
    if (lie === "token" && choice?.token_ids?.[0] !== undefined) {
      lies++;
      choice.token_ids[0] ^= 1;
    } else if (lie === "logprob" && choice?.logprobs?.token_logprobs[0] !== undefined) {
      lies++;
      choice.logprobs.token_logprobs[0] *= 1 + 2 ** -40;
    } else if (event.prefix && lie === "base") {
      lies++;
      event.prefix = null;
    } else if (event.prefix && lie === "digest") {
      const { digest } = event.prefix;
      const other = [...digests].find((one) => one !== digest);
      if (other === undefined) return event;
      lies++;
      event.prefix.digest = other;
    }
    return event;
  };

  const server = createServer((incoming, outgoing) => {
    const pieces: Buffer[] = [];
    incoming.on("data", (piece: Buffer) => pieces.push(piece));
    incoming.on("end", () => {
      const body = Buffer.concat(pieces);
      const asks =
        incoming.url === "/generate" ? (JSON.parse(body.toString()) as { stream?: boolean; logprobs?: number }) : {};
      const lied = asks.stream === true && (lie === "digest" || lie === "base" || asks.logprobs !== undefined);
      const forwarded = request(
        `${target}${incoming.url}`,
        { method: incoming.method!, headers: incoming.headers },
        (answer) => {
          outgoing.writeHead(answer.statusCode!, answer.headers);
          if (!lied || answer.statusCode !== 200) return void answer.pipe(outgoing);
          let rest = "";
          answer.setEncoding("utf8").on("data", (text: string) => {
            const events = (rest + text).split("\n\n");
            rest = events.pop()!;
            for (const event of events) {
              const data = event.startsWith("data: {")
                ? `data: ${JSON.stringify(change(JSON.parse(event.slice(6)) as Event))}`
                : event;
              outgoing.write(`${data}\n\n`);
            }
          });
          answer.on("end", () => outgoing.end());
        },
      );
      forwarded.on("error", () => outgoing.destroy());
      outgoing.on("close", () => forwarded.destroy());
      forwarded.end(body);
    });
  });
  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    lies: () => lies,
    close: () => (server.close(), server.closeAllConnections()),
  };
}
