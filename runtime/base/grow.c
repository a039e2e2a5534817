// SPDX-License-Identifier: MIT
/* Copies a caller's struct of another size into ours. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "fail.h"
#include "grow.h"

int struct_grow(void *ret, size_t ours, const void *theirs, const char *what, struct fail *f)
{
	size_t size;

	memcpy(&size, theirs, sizeof(size));
	if (size < sizeof(size_t))
		return fail(f, -EINVAL, "%s.size is %zu; set it to sizeof(struct ferry_%s)", what, size,
			    what);
	for (size_t i = ours; i < size; i++)
		if (((const uint8_t *)theirs)[i])
			return fail(f, -EINVAL,
				    "%s.size is %zu and byte %zu is set; this library knows %zu bytes: it is older than "
				    "the header the program was built with",
				    what, size, i, ours);
	memset(ret, 0, ours);
	memcpy(ret, theirs, size < ours ? size : ours);
	memcpy(ret, &ours, sizeof(ours));
	return 0;
}
