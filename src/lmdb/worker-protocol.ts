import type { ErrorCode } from "../errors.ts";

export interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

/** Errors as plain data: classes do not survive posting between threads. */
export interface Failure {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly cause: string;
}

export type Reply = { readonly id: number } & ({ readonly value: unknown } | { readonly failure: Failure });

/** Id of the message that reports whether the tables could be opened. */
export const OPENED = 0;
