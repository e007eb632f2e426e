import Type from "typebox";
import { ConfigError } from "./errors.ts";

/** Settings for those who watch a server: scrapers, routers, probes. */
export const WATCH_SETTINGS = {
  adminPort: Type.Integer({
    minimum: 0,
    maximum: 65535,
    arg: "N",
    default: 0,
    shown: "0 (none)",
    description:
      "Second port that answers /metrics and /health/* without a key and nothing else, from the start of loading on",
  }),
  adminHost: Type.String({
    minLength: 1,
    arg: "ADDR",
    default: "127.0.0.1",
    description: "Address of --admin-port; whoever reaches it reads the metrics",
  }),
  metricsCompat: Type.Enum(["none", "vllm"], {
    default: "none",
    description:
      "vllm: /metrics also has queue, running requests and use of the cache under vLLM's names, for routers that know only these",
  }),
  metricsPrefixIds: Type.Boolean({
    default: false,
    description:
      "With --metrics-compat vllm: also name the prefixes in use, as vLLM names LoRA adapters; they tell who the users are",
  }),
};

interface WatchSettings {
  readonly port: number;
  readonly adminPort: number;
  readonly adminHost: string;
  readonly host: string;
  readonly metricsCompat: "none" | "vllm";
  readonly metricsPrefixIds: boolean;
}

/** @throws ConfigError for settings that contradict each other */
export function checkWatchSettings(settings: WatchSettings): void {
  const { port, adminPort, adminHost, host, metricsCompat, metricsPrefixIds } = settings;
  if (metricsPrefixIds && metricsCompat === "none")
    throw new ConfigError("--metrics-prefix-ids: only --metrics-compat vllm names prefixes");
  if (adminPort !== 0 && adminPort === port && adminHost === host)
    throw new ConfigError(`--admin-port ${adminPort}: --port is the same`);
}
