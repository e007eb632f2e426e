import { buildTestApp } from "../support/app.ts";
const app = await buildTestApp({ teardown: () => 0 }, { stream: { bufferLimit: 1 << 16, heartbeatMs: 7, lingerMs: 100 } });
await app.registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1) });
app.engine.maxQueue = 50; app.engine.stepMs = 3;
process.on("uncaughtException", (e) => { console.log("UNCAUGHT", e.stack); });
process.on("unhandledRejection", (e) => { console.log("UNHANDLED", e); });
console.log("PORT", await app.listen());
process.on("SIGTERM", () => { console.log("LIVE", app.engine.stats().running, process.memoryUsage().heapUsed >> 20, app.logs.filter(l => l.includes('"level":"error"')).slice(0, 3)); process.exit(0); });
