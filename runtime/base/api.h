/* SPDX-License-Identifier: MIT */
/* The library is built with hidden visibility; what ferry.map lists is defined with this. */
#ifndef FERRY_API_H
#define FERRY_API_H

#define FERRY_API __attribute__((visibility("default")))

#endif
