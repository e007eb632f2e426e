import Type from "typebox";

/** Settings of training over HTTP. Quotas are each user's. */
export const TRAINING_SETTINGS = {
  training: Type.Enum(["on", "off"], {
    default: "off",
    description:
      "Whether users can train prefixes with /v1/fine_tuning/jobs; off, since it takes processor time and disk that a server may not have to spare",
  }),
  trainThreads: Type.Integer({
    minimum: 0,
    maximum: 1024,
    arg: "N",
    default: 0,
    shown: "0 (all cores the container may use)",
    description: "Threads of a training, which has a process of its own",
  }),
  trainNice: Type.Integer({
    minimum: 0,
    maximum: 19,
    arg: "N",
    default: 19,
    description: "How far that process gives way to others: 0 like the server, 19 in everything",
  }),
  trainShare: Type.Number({
    minimum: 0.001,
    maximum: 1,
    arg: "PART",
    default: 0.01,
    description:
      "Share of the time that training takes while requests are generated; it takes all of it while there are none",
  }),
  trainJobs: Type.Integer({
    minimum: 1,
    maximum: 1000,
    arg: "N",
    default: 4,
    description: "Training jobs that a user may have waiting and running",
  }),
  trainFileBytes: Type.Integer({
    minimum: 1024,
    maximum: 1024 ** 4,
    unit: "bytes",
    arg: "SIZE",
    default: 256 * 1024 ** 2,
    shown: "256MiB",
    description: "Bytes of training files that a user may store",
  }),
  trainTokens: Type.Integer({
    minimum: 1,
    maximum: 1_000_000_000_000,
    arg: "N",
    default: 50_000_000,
    description: "Tokens that a user may train on in a day (UTC), each as often as it is used; then jobs wait",
  }),
};
