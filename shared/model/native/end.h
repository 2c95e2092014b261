/* Undefines what one kind defined. */
#undef KIND
#undef PAIRS
#undef GROUPED
#undef V16
#undef U16
#undef FN
#undef BOTH
#undef TALL
