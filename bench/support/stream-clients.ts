/** Streaming clients in their own process: they share the machine with the server, but not its event loop. */
import { request } from "node:http";

export interface Job {
  readonly port: number;
  /** Token ids, one list per client; client i requests prefix `p<i mod prefixes>`. */
  readonly prompts: readonly (readonly number[])[];
  readonly prefixes: number;
  readonly maxNewTokens: number;
}

export interface Report {
  /** While every client receives: from the last client's first token to the first client's end. */
  readonly tokensPerSecond: number;
  readonly error?: string;
}

process.on("message", (job: Job) => {
  run(job).then(
    (tokensPerSecond) => process.send!({ tokensPerSecond } satisfies Report),
    (error: unknown) => process.send!({ tokensPerSecond: 0, error: String(error) } satisfies Report),
  );
});
process.send!("ready");

async function run(job: Job): Promise<number> {
  let receiving = 0;
  let started = 0;
  let counted = 0;
  let rate = 0;
  const clients = job.prompts.map(
    (prompt, index) =>
      new Promise<void>((resolve, reject) => {
        const body = JSON.stringify({
          prompt,
          prefix_id: `p${index % job.prefixes}`,
          max_new_tokens: job.maxNewTokens,
          ignore_eos: true,
          stream: true,
        });
        const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
        const call = request(
          { port: job.port, host: "127.0.0.1", path: "/generate", method: "POST", headers },
          (response) => {
            let tokens = 0;
            response.setEncoding("utf8");
            response.on("data", (text: string) => {
              for (const event of text.split("\n\n")) {
                if (!event.includes('"finish_reason":null')) continue;
                if (receiving === job.prompts.length) counted++;
                if (tokens++ === 0 && ++receiving === job.prompts.length) started = performance.now();
              }
            });
            response.on("end", () => {
              rate ||= (counted * 1000) / (performance.now() - started);
              if (response.statusCode === 200 && tokens >= job.maxNewTokens - 1) resolve();
              else reject(new Error(`status ${response.statusCode}, ${tokens} tokens`));
            });
          },
        );
        call.on("error", reject);
        call.end(body);
      }),
  );
  await Promise.all(clients);
  return rate;
}
