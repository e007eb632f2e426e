/** The fake server in a process of its own; its argument is how many streams begin together. Prints its address. */
import { startFakePrefixd } from "./fake-prefixd.ts";

const server = await startFakePrefixd({ together: Number(process.argv[2]), tokenMs: 50 });
console.log(server.url);
