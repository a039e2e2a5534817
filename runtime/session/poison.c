// SPDX-License-Identifier: MIT
/* Whether this end can carry pages over that a hardware error has destroyed. */
#include "poison.h"

#include <unistd.h>

#include "runtime/memory/uffd.h"

bool poison_able(struct ferry_session *s)
{
	int fd;

	if (!s->ops.poison || !(s->link.features & WIRE_FEATURE_POISON) || s->link.x->caps & XPORT_PINS)
		return false;
	if (s->is_source)
		return true;
	fd = uffd_open(UFFD_POISON, NULL);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}
