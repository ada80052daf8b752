// Types of `uringcast.js`. tests/package compiles README's lines against them under `tsc --strict`.

/** A place in a channel: what comes next has `offset` + 1, within the same epoch. */
export interface Position {
  epoch: string;
  offset: number;
}

export interface User {
  id: number | string;
  username: string;
}

/** Why a connection ended. `network`: without a close of either side. */
export interface CloseCause {
  code: number;
  reason: string;
  by: 'client' | 'server' | 'network';
}

export interface Ended extends CloseCause {
  by: 'client' | 'server';
}

export type State = 'idle' | 'connecting' | 'authenticating' | 'online' | 'waiting' | 'closed';

export interface StateEvent {
  state: State;
  previous: State;
  /** With `waiting` and `closed`. */
  code?: number;
  /** With `waiting` and `closed`. */
  reason?: string;
  /** With `closed`. */
  by?: 'client' | 'server';
  /** With `waiting`: milliseconds until the next attempt. */
  retryInMs?: number;
  /** With `waiting`: 1 for the first reconnect in a row. */
  attempt?: number;
  /** With `online`: lobby messages that went by while away and are not told; `null`: unknown. */
  missed?: number | null;
}

/** A message of the server as it is on the wire. */
export interface Envelope<Data = unknown> {
  type: string;
  id?: string;
  code?: number;
  message?: string;
  data: Data;
  timestamp?: number;
}

/** A text in the lobby or another channel. */
export interface Message {
  id: string;
  channel: string;
  offset: number;
  /** Who sent it; absent if the backend did. */
  sender?: User;
  text: string;
  timestamp: number;
}

/** A publication in a channel: any JSON. */
export interface Publication<Data = unknown> {
  channel: string;
  offset: number;
  data: Data;
  key?: string;
  /** Who published it; absent if the backend did. */
  sender?: User;
  timestamp: number;
}

/** Publications that are lost, `from` and `to` included. */
export interface Gap {
  channel: string;
  epoch: string;
  from: number;
  to: number;
  reason: 'slow_consumer' | 'conflated' | 'history_lost' | 'engine' | (string & {});
}

export interface Presence {
  channel: string;
  user: User;
  count: number;
  timestamp: number;
}

export interface PresenceDigest {
  channel: string;
  count: number;
  joined: User[];
  left: User[];
  truncated?: boolean;
  reset?: boolean;
  timestamp: number;
}

export interface OnlineChange {
  user: User;
  online_count: number;
  timestamp: number;
}

/** The server's answer to a subscription. */
export interface Subscribed extends Position {
  channel: string;
  overflow?: 'disconnect' | 'drop_oldest' | 'conflate';
  /** Absent if nothing was to be recovered. */
  recovered?: boolean;
  publications?: HistoryItem[];
  /** When the channel's own token ends, Unix milliseconds. */
  expires_at?: number;
}

export interface AuthSuccess {
  user: User;
  online_count: number;
  lobby?: Subscribed;
  /** When the token ends, Unix milliseconds. */
  expires_at?: number;
}

export interface Acknowledgement extends Position {
  channel: string;
  /** It was accepted before, under the same idempotency key. */
  duplicate?: boolean;
}

/** An element of a history page: what a push has as `data`, and its type. */
export type HistoryItem<Data = unknown> = ({ type: 'publication' } & Publication<Data>) | ({ type: 'message' } & Message);

export interface HistoryPage<Data = unknown> extends Position {
  channel: string;
  publications: HistoryItem<Data>[];
}

export interface MembersPage {
  count: number;
  members: { user: User; connections: number }[];
  /** Asks for the next page; absent on the last. */
  cursor?: string;
}

/** What the server sends by itself, by type. */
export interface Pushes {
  system: Envelope<{ connection_id: string; timestamp: number }>;
  auth_success: Envelope<AuthSuccess>;
  auth_failed: Envelope<undefined>;
  kicked: Envelope<undefined>;
  error: Envelope<{ channel?: string } | undefined>;
  message: Envelope<Message>;
  publication: Envelope<Publication>;
  gap: Envelope<Gap>;
  join: Envelope<Presence>;
  leave: Envelope<Presence>;
  presence_digest: Envelope<PresenceDigest>;
  user_online: Envelope<OnlineChange>;
  user_offline: Envelope<OnlineChange>;
  token_expiring: Envelope<{ channel?: string; expires_at: number }>;
  unsubscribed: Envelope<{ channel: string }>;
  draining: Envelope<{ reconnect_in_ms: number }>;
}

export interface ClientEvents extends Pushes {
  state: StateEvent;
  /** Every push, of any type. */
  push: Envelope<any>;
  /** A push of a type that this client doesn't know. */
  unknown: Envelope<any>;
}

export interface SubscriptionEvents<Data = unknown> {
  publication: Envelope<Publication<Data>>;
  message: Envelope<Message>;
  gap: Envelope<Gap>;
  join: Envelope<Presence>;
  leave: Envelope<Presence>;
  presence_digest: Envelope<PresenceDigest>;
  /** Each time, before what was missed. */
  subscribed: Envelope<Subscribed>;
  /** The end. `code`: 200 by `unsubscribe()`, the server's number, or `closed` with the connection. */
  unsubscribed: Omit<Envelope<{ channel: string }>, 'code'> & { code: number | ErrorName };
  error: UringcastError;
}

export type ErrorName = 'queue_full' | 'offline' | 'closed' | 'expired' | 'timeout' | 'connection_lost' | 'no_token';

export interface UringcastErrorDetails {
  outcome?: 'refused' | 'not_sent' | 'unknown';
  idempotencyKey?: string;
  cause?: CloseCause;
}

/** Why a request failed. */
export class UringcastError extends Error {
  constructor(code: number | ErrorName, message: string, details?: UringcastErrorDetails);
  /** The server's number, or a name. */
  code: number | ErrorName;
  /** `refused` or `not_sent`: it had no effect. `unknown`: it may have had one; the same idempotency key makes a repetition safe. */
  outcome: 'refused' | 'not_sent' | 'unknown' | undefined;
  idempotencyKey: string | undefined;
  /** Which close is why, if one is. */
  cause?: CloseCause;
}

/** Whether the client does not reconnect by itself after this close code. */
export function isFinal(code: number): boolean;

/** An error with `final: true` is not asked again. `refused`: the server did not take the last one. */
export type TokenSource = string | ((how: { refused: boolean }) => string | Promise<string>);
export type ChannelTokenSource = string | ((how: { channel: string; refused: boolean }) => string | Promise<string>);

/** What the client needs of a socket's class: the browser's, Node's, or that of the `ws` package. */
export type WebSocketClass = new (url: string, protocols?: string[]) => any;

/** Parts of the machine that the client runs on, to replace them. */
export interface Environment {
  WebSocket?: WebSocketClass | undefined;
  setTimeout?: (run: () => void, ms: number) => any;
  clearTimeout?: (handle: any) => void;
  /** A monotonic clock, in milliseconds. */
  now?: () => number;
  /** The wall clock, in Unix milliseconds. */
  wall?: () => number;
  random?: () => number;
  /** What has the events `online`, `pageshow` and `pagehide`, and `document`: by default the global object. */
  page?: any;
}

export interface ClientOptions {
  token: TokenSource;
  /** Ask the server for `ping` messages. Default: true. */
  ping?: boolean;
  /** After a reconnect, ask for what was missed in the lobby; a position: at the first sign-in too. Default: true. */
  recover?: boolean | Position;
  /** After a reconnect, repeat what was sent and not acknowledged. Default: true. */
  resend?: boolean;
  /** Default: `['uringcast.v1']`. */
  protocols?: string[];
  /** Messages not yet acknowledged. Default: 256. */
  queueLimit?: number;
  /** Default: 240,000. */
  messageLifetimeMs?: number;
  /** Default: 10,000. */
  requestTimeoutMs?: number;
  /** For each of: the token, the handshake, the sign-in. Default: 10,000. */
  connectTimeoutMs?: number;
  /** Of hearing nothing. Default: 25,000. */
  heartbeatIntervalMs?: number;
  /** Default: 10,000. */
  heartbeatTimeoutMs?: number;
  /** Of `check()`. Default: 5,000. */
  checkTimeoutMs?: number;
  /** Default: 500. */
  backoffBaseMs?: number;
  /** Default: 30,000. */
  backoffMaxMs?: number;
  /** An online connection that lived this long starts the backoff afresh. Default: 10,000. */
  stableMs?: number;
  /** Reconnects in a row. Default: Infinity. */
  maxAttempts?: number;
  /** Refused tokens in a row. Default: 8. */
  maxRefusals?: number;
  env?: Environment;
}

export interface SubscribeOptions {
  /** For channels that ask for one. */
  token?: ChannelTokenSource;
  /** After a reconnect, be told what was missed; a position: from there on, also the first time. Default: true. */
  recover?: boolean | Position;
}

export interface SendOptions {
  /** Default: the lobby. */
  channel?: string;
  idempotencyKey?: string;
  /** Give up earlier than after `messageLifetimeMs`. */
  timeoutMs?: number;
}

export interface PublishOptions {
  key?: string;
  idempotencyKey?: string;
  /** Give up earlier than after `messageLifetimeMs`. */
  timeoutMs?: number;
}

export interface PageOptions {
  cursor?: string;
  limit?: number;
  timeoutMs?: number;
}

export interface HistoryOptions {
  since?: Position;
  limit?: number;
  reverse?: boolean;
  timeoutMs?: number;
}

export class Uringcast {
  constructor(url: string | URL, options: ClientOptions);
  readonly state: State;
  /** Messages not yet acknowledged. */
  readonly queued: number;
  /** The signed-in user; null before the first sign-in. */
  user: User | null;
  /** Why the client ended; null while it has not. */
  ended: Ended | null;
  /** The last place told in the lobby or a channel. */
  position(channel?: string): Position | null;
  on<Type extends keyof ClientEvents>(type: Type, listener: (event: ClientEvents[Type]) => void): () => void;
  off<Type extends keyof ClientEvents>(type: Type, listener: (event: ClientEvents[Type]) => void): void;
  /** Connects; while waiting to reconnect, tries at once; while online, checks the connection. */
  connect(): this;
  /** Finds out now whether the connection is alive; while waiting to reconnect, tries at once. */
  check(): this;
  disconnect(): void;
  send(text: string, options?: SendOptions): Promise<Acknowledgement>;
  subscribe<Data = any>(channel: string, options?: SubscribeOptions): Subscription<Data>;
  request<Answer = any>(type: string, data?: object, options?: { timeoutMs?: number }): Promise<Answer>;
  users(options?: PageOptions): Promise<MembersPage>;
  userPages(options?: { limit?: number }): AsyncGenerator<MembersPage, void, void>;
}

export class Subscription<Data = any> {
  private constructor();
  readonly channel: string;
  readonly state: 'subscribing' | 'subscribed' | 'ended';
  readonly ready: Promise<Subscribed>;
  readonly position: Position | null;
  on<Type extends keyof SubscriptionEvents<Data>>(type: Type, listener: (event: SubscriptionEvents<Data>[Type]) => void): () => void;
  off<Type extends keyof SubscriptionEvents<Data>>(type: Type, listener: (event: SubscriptionEvents<Data>[Type]) => void): void;
  publish(data: Data, options?: PublishOptions): Promise<Acknowledgement>;
  history(options?: HistoryOptions): Promise<HistoryPage<Data>>;
  presence(options?: PageOptions): Promise<MembersPage & { channel: string }>;
  unsubscribe(): void;
}
