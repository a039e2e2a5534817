/* SPDX-License-Identifier: MIT */
/* How many pages a target can lack, as its source counts them: bounds for the target's own counts. */
#ifndef FERRY_MISSING_H
#define FERRY_MISSING_H

#include "session.h"

/* The most after it has loaded the device state. */
uint64_t missing_most(const struct ferry_session *s);
/* The most at its PREPARED: 0 if the commit comes only after the last page. */
uint64_t missing_max(const struct ferry_session *s);

#endif
