#include "commands.h"
int cmd_doctor(FILE *json) { (void)json; return 0; }
