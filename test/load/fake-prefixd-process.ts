/** The fake server in a process of its own: how many streams begin together (0: each by itself), milliseconds between tokens. Prints its address. */
import { startFakePrefixd } from "./fake-prefixd.ts";

const [together, tokenMs] = process.argv.slice(2).map(Number);
const server = await startFakePrefixd({ together: together ?? 0, tokenMs: tokenMs ?? 50 });
console.log(server.url);
