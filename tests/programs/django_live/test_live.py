"""What a project's tests do with a live server; run by the tests' test_django.py through `manage.py test`."""

import json
import threading
from urllib.request import urlopen

from django.contrib.auth.models import User
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.db import connection
from django.test import LiveServerTestCase

from maypole.contrib.django.testing import LiveServerThread


class Live(LiveServerTestCase):
    server_thread_class = LiveServerThread

    def names(self):
        with urlopen(f"{self.live_server_url}/users") as response:
            self.assertEqual(response.headers["Server"], "maypole")
            return json.load(response)["users"]

    def test_requests_see_what_the_test_wrote(self):
        self.assertEqual(self.names(), [])
        User.objects.create(username="ada")
        self.assertEqual(self.names(), ["ada"])

    def test_the_test_sees_what_requests_wrote(self):
        for name in ("brook", "casey"):
            self.assertEqual(urlopen(f"{self.live_server_url}/add/{name}").status, 201)
        self.assertEqual(sorted(User.objects.values_list("username", flat=True)), ["brook", "casey"])

    def test_many_at_once(self):
        failed = []

        def ask():
            try:
                self.names()
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])

    def test_the_database_is_the_one_of_the_test(self):
        with urlopen(f"{self.live_server_url}/users") as response:
            self.assertEqual(json.load(response)["db"], str(connection.settings_dict["NAME"]))


class Static(StaticLiveServerTestCase):
    server_thread_class = LiveServerThread

    def test_server_answers(self):
        with urlopen(f"{self.live_server_url}/users") as response:
            self.assertEqual(response.status, 200)
