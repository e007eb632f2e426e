/** Draws the sub-schema at a pointer, between two states. */
export type DrawPart = (schema: unknown, pointer: string, from: number, to: number) => void;
