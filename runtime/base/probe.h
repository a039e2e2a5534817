/* SPDX-License-Identifier: MIT */
/*
 * Static probes (USDT) of the provider "ferry". Each is a nop until a tracer attaches; docs/observability.md
 * lists them with their arguments. Without sys/sdt.h, or with FERRY_USDT=OFF, they compile to nothing.
 */
#ifndef FERRY_PROBE_H
#define FERRY_PROBE_H

#ifdef FERRY_USDT
#include <sys/sdt.h>
#define PROBE3(name, a, b, c) DTRACE_PROBE3(ferry, name, a, b, c)
#define PROBE4(name, a, b, c, d) DTRACE_PROBE4(ferry, name, a, b, c, d)
#define PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(ferry, name, a, b, c, d, e)
#define PROBE6(name, a, b, c, d, e, f) DTRACE_PROBE6(ferry, name, a, b, c, d, e, f)
#else
#define PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#define PROBE5(name, a, b, c, d, e) ((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#define PROBE6(name, a, b, c, d, e, f) ((void)(a), (void)(b), (void)(c), (void)(d), (void)(e), (void)(f))
#endif

#endif
