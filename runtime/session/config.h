/* SPDX-License-Identifier: MIT */
/* Defaults and limits of everything that an embedder can set. An error has its sentence in f. */
#ifndef FERRY_CONFIG_H
#define FERRY_CONFIG_H

#include <stddef.h>

#include "ferry/ferry.h"

struct fail;

#define CONFIG_ROUNDS 30u
#define CONFIG_ROUNDS_MAX 1000u
#define CONFIG_POLL_US 1000u
#define CONFIG_POLL_US_MAX 10000u
#define CONFIG_DOWNTIME_US 300000u
#define CONFIG_SWITCHOVER_LIMIT_US 30000000u
#define CONFIG_CONNECT_US 10000000u
#define CONFIG_RECONNECT_US 5000000u
#define CONFIG_TIMEOUT_US 3000000u
#define CONFIG_TIMEOUT_US_MIN 10000u
#define CONFIG_PEER_TIMES 10u /* the peer's waiting times are at most this many times this end's */

/* Copy cfg (NULL: all defaults) with the defaults filled in and the limits checked. */
int config_load(struct ferry_config *ret, const struct ferry_config *cfg, struct fail *f);
/* Copy ops; -EINVAL if an op is missing that this end must have. */
int config_ops(struct ferry_ops *ret, const struct ferry_ops *ops, int is_source, struct fail *f);
/* Check a source's regions: its own, or at the target before reserve. */
int config_regions(const struct ferry_region *r, size_t n, struct fail *f);
/* Check those that a target's VMM has reserved: they may be foreign. */
int config_reserved(const struct ferry_region *r, size_t n, struct fail *f);

#endif
