/* Integer types where there is no kernel header. */
#ifndef WEIR_TYPES_H
#define WEIR_TYPES_H
typedef unsigned char      __u8;
typedef unsigned short     __u16;
typedef unsigned int       __u32;
typedef unsigned long long __u64;
typedef signed int         __s32;
typedef signed long long   __s64;
#endif
