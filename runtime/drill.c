// SPDX-License-Identifier: MIT
/* ferry_drill(), fault injection: turns names of messages into numbers for the filter. FERRY_DRILL only. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "drill.h"
#include "ferry/drill.h"

int drill_new(struct ferry_session *s)
{
	s->chaos = xport_chaos_new(wire_type_of);
	if (!s->chaos)
		return fail(&s->fail, -ENOMEM, "no memory for the drill filter");
	s->link.param.chaos = s->chaos;
	return 0;
}

void drill_free(struct ferry_session *s)
{
	xport_chaos_free(s->chaos);
}

/* "lost:COMMIT" becomes "lost:16": the filter knows messages by their numbers. */
FERRY_API int ferry_drill(struct ferry_session *s, const char *fault)
{
	const char *name = fault ? strchr(fault, ':') : NULL;
	size_t len = name ? strcspn(++name, "@:") : 0;
	enum wire_type t = wire_by_name(name, len);
	char numbered[64];

	if (!s->chaos)
		return -EPERM;
	if (!fault || strlen(fault) >= sizeof(numbered))
		return -EINVAL;
	if (!t)
		return xport_chaos_fault(s->chaos, fault);
	snprintf(numbered, sizeof(numbered), "%.*s%d%s", (int)(name - fault), fault, t, name + len);
	return xport_chaos_fault(s->chaos, numbered);
}
