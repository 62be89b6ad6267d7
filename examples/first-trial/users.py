"""Users of the first trial: each asks once through the router; what was right is reported afterwards.

`python users.py ROUTER CONTROL USERS`
"""

import json
import sys
import urllib.request


def post(url: str, body: object, headers: dict[str, str]) -> tuple[dict[str, object], dict[str, str]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer), dict(answer.headers)


def main(router: str, control: str, users: int) -> None:
    outcomes = []
    for number in range(users):
        digit = number % 10
        answer, headers = post(f"{router}/v1/models/digit:predict", {"instances": [digit]}, {"x-user-id": f"u{number}"})
        outcomes.append(
            {
                "request_id": headers["x-request-id"],
                "name": "correct",
                "value": answer["predictions"] == [digit],
                "id": f"label-{number}",
            }
        )
    answer, _ = post(f"{control}/api/v1/outcomes", {"outcomes": outcomes}, {})
    print(f"{users} users, {answer['accepted']} outcomes accepted")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
