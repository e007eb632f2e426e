/** Stands for a driver that crashes: ends the process with a signal after it has said something. */
process.stderr.write("driver: page fault\n", () => process.kill(process.pid, "SIGSEGV"));
setInterval(() => {}, 1000);
