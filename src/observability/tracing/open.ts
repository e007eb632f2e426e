import { ConfigError } from "../../errors.ts";
import type { Logger } from "../logging.ts";
import { OTLP_PROTOCOLS, type OtlpProtocol, type Tracing } from "./trace.ts";

type Environment = Readonly<Record<string, string | undefined>>;

const ENDPOINTS = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"] as const;
const PROTOCOLS = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] as const;

/**
 * Whether OpenTelemetry's variables ask for traces, and how they are sent; null: they do not.
 * @throws ConfigError for an endpoint that is no URL, and for an exporter or a protocol that is not offered here
 */
export function tracesWanted(env: Environment): OtlpProtocol | null {
  const named = ENDPOINTS.find((name) => env[name]);
  if (named === undefined || /^true$/i.test(env["OTEL_SDK_DISABLED"] ?? "")) return null;
  const exporters = (env["OTEL_TRACES_EXPORTER"] || "otlp").split(",").map((name) => name.trim());
  if (exporters.includes("none")) return null;
  if (!exporters.includes("otlp"))
    throw new ConfigError(`OTEL_TRACES_EXPORTER ${exporters.join()}: expected otlp or none`);
  const endpoint = env[named]!.trim();
  // It may have a password: the message does not repeat it.
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint))
    throw new ConfigError(`${named}: expected a URL such as http://127.0.0.1:4318`);
  const variable = PROTOCOLS.find((name) => env[name]);
  const given = variable === undefined ? OTLP_PROTOCOLS[0] : env[variable]!;
  const protocol = OTLP_PROTOCOLS.find((one) => one === given);
  if (protocol === undefined) throw new ConfigError(`${variable} ${given}: expected ${OTLP_PROTOCOLS.join(" or ")}`);
  return protocol;
}

/**
 * Tracing as OpenTelemetry's variables say; null, and nothing of its SDK is loaded, if they name no endpoint. The SDK reads
 * the process's environment.
 * @throws ConfigError
 */
export async function openTracing(env: Environment, logger: Logger): Promise<Tracing | null> {
  const protocol = tracesWanted(env);
  if (protocol === null) return null;
  const { OtelTracing } = await import("./sdk.ts");
  return OtelTracing.open(protocol, logger);
}
