"""Operations whose second derivatives are ours."""
