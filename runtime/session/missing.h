/* SPDX-License-Identifier: MIT */
/* How many pages a target may lack, as its source counts them. */
#ifndef FERRY_MISSING_H
#define FERRY_MISSING_H

#include "session.h"

/* Once it has loaded the state. */
uint64_t missing_most(const struct ferry_session *s);
/* When it is PREPARED. */
uint64_t missing_max(const struct ferry_session *s);

#endif
