import type { Config } from "../../config.ts";
import type { ClientLimits } from "../app-parts.ts";
import { connectionsAllowed } from "./open-files.ts";

/** What the settings let a client take; `--max-connections` 0: as many as the process's open files allow. */
export function clientLimits(config: Config): ClientLimits {
  const { headerTimeout, requestTimeout, receiveTimeout, sendTimeout, keepAliveTimeout } = config;
  return {
    maxConnections: config.maxConnections || connectionsAllowed(),
    headerMs: headerTimeout * 1000,
    requestMs: requestTimeout * 1000,
    receiveMs: receiveTimeout * 1000,
    sendMs: sendTimeout * 1000,
    keepAliveMs: keepAliveTimeout * 1000,
  };
}
